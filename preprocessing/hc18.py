"""HC18, the fetal head in ultrasound (with filled masks of the head): check pictures and masks and write a datalist."""

import sys

from checks import check_labelled_picture
from common import Dataset, main

HC18 = Dataset(
    splits=("hc18_subjects",),
    layouts=(("images/{case}.jpg", "masks/{case}.png"), ("images/{case}.png", "masks/{case}.png")),
    check_case=check_labelled_picture,
)

if __name__ == "__main__":
    sys.exit(main(HC18, __doc__))
