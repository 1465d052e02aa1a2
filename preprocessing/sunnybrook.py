"""Sunnybrook cardiac data, the left ventricle in cine MR: check the volumes and write their datalist by patients."""

import sys
from functools import partial

from checks import read_labelled_volume
from common import Dataset, main

SUNNYBROOK = Dataset(
    splits=("sunnybrook_patients",),
    layouts=(("images/{case}.nii.gz", "labels/{case}.nii.gz"),),
    check_case=partial(read_labelled_volume, label_values=frozenset({0, 1})),
)

if __name__ == "__main__":
    sys.exit(main(SUNNYBROOK, __doc__))
