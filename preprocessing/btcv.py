"""BTCV abdomen (Synapse syn3193805, RawData.zip): check RawData/Training, write a datalist with the 18/12 split.

The folder may also have the layout of MONAI's tutorials, imagesTr and labelsTr. Their JSON file is not read: its split
is another one, 24 volumes for training and 6 for validation.
"""

import sys
from functools import partial

from checks import read_labelled_volume
from common import Dataset, main

PREPROCESSED = (
    "of a preprocessed copy (TransUNet's Synapse): intensities are cut, spacing, orientation and five organs are gone; "
    "expected the volumes themselves, get RawData.zip from Synapse syn3193805"
)
BTCV = Dataset(
    splits=("btcv_18_12",),
    layouts=(
        ("img/img{case}.nii.gz", "label/label{case}.nii.gz"),
        ("imagesTr/img{case}.nii.gz", "labelsTr/label{case}.nii.gz"),
    ),
    check_case=partial(read_labelled_volume, label_values=frozenset(range(14))),
    other_forms={"**/*.npz": PREPROCESSED, "**/*.h5": PREPROCESSED},
)

if __name__ == "__main__":
    sys.exit(main(BTCV, __doc__))
