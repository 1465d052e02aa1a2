"""BTCV abdomen (Synapse syn3193805, RawData.zip): check RawData/Training and write its datalist by the 18/12 split."""

import sys

from common import VolumeDataset, main

BTCV = VolumeDataset(
    split="btcv_18_12",
    layouts=(("img/img{case}.nii.gz", "label/label{case}.nii.gz"),),
    label_values=frozenset(range(14)),
)

if __name__ == "__main__":
    sys.exit(main(BTCV, __doc__))
