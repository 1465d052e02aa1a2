"""MSD Task04 hippocampus: check the download, and write its datalist with the 180/20/20 split."""

import sys
from functools import partial

from checks import read_labelled_volume
from common import Dataset, main

HIPPOCAMPUS = Dataset(
    splits=("hippocampus_180_20_20",),
    layouts=(
        ("images/{case}.nii.gz", "labels/{case}.nii.gz"),
        ("imagesTr/{case}.nii.gz", "labelsTr/{case}.nii.gz"),
    ),
    check_case=partial(read_labelled_volume, label_values=frozenset({0, 1, 2})),
)

if __name__ == "__main__":
    sys.exit(main(HIPPOCAMPUS, __doc__))
