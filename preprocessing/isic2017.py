"""ISIC 2017, part 1 (256 x 256 pictures of its training split): check pictures and masks and write a datalist."""

import sys

from checks import check_labelled_picture
from common import Dataset, main

ISIC2017 = Dataset(
    splits=("isic2017_1700_150_150",),
    layouts=(("images/{case}.jpg", "masks/{case}.png"),),
    check_case=check_labelled_picture,
)

if __name__ == "__main__":
    sys.exit(main(ISIC2017, __doc__))
