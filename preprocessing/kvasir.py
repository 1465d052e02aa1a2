"""Kvasir-SEG (kvasir-seg.zip): check its images and masks and write a datalist.

The default split is for the published 1000 pairs and depends only on their names. kvasir_850 is for a copy of 850 of
them, with names such as kvasir_0001.
"""

import sys

from checks import check_labelled_picture
from common import Dataset, main

KVASIR = Dataset(
    splits=("kvasir_800_100_100", "kvasir_850"),
    layouts=(
        ("images/{case}.jpg", "masks/{case}.jpg"),
        ("images/{case}.jpg", "masks/{case}.png"),
    ),
    check_case=check_labelled_picture,
)

if __name__ == "__main__":
    sys.exit(main(KVASIR, __doc__))
