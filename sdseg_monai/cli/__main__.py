"""``python -m sdseg_monai.cli`` is ``sdseg``."""

import sys

from sdseg_monai.cli import main

sys.exit(main())
