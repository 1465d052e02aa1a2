"""BTCV abdomen (Synapse syn3193805, RawData.zip): check RawData/Training, write a datalist with the 18/12 split."""

import sys
from functools import partial

from checks import read_labelled_volume
from common import Dataset, main

BTCV = Dataset(
    splits=("btcv_18_12",),
    layouts=(("img/img{case}.nii.gz", "label/label{case}.nii.gz"),),
    check_case=partial(read_labelled_volume, label_values=frozenset(range(14))),
)

if __name__ == "__main__":
    sys.exit(main(BTCV, __doc__))
