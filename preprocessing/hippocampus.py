"""MSD Task04 hippocampus: check the download and write its datalist by the committed 180/20/20 split."""

import sys

from common import VolumeDataset, main

HIPPOCAMPUS = VolumeDataset(
    split="hippocampus_180_20_20",
    layouts=(
        ("images/{case}.nii.gz", "labels/{case}.nii.gz"),
        ("imagesTr/{case}.nii.gz", "labelsTr/{case}.nii.gz"),
    ),
    label_values=frozenset({0, 1, 2}),
)

if __name__ == "__main__":
    sys.exit(main(HIPPOCAMPUS, __doc__))
