"""``python -m sdseg_monai.cli`` does the same as ``sdseg``."""

import sys

from sdseg_monai.cli import main

sys.exit(main())
