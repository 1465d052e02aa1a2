"""CVC-ClinicDB: check its 612 frames and write a datalist.

In the default manifest, all frames of a sequence are in the same split. In cvc_frames_488_62_62 single frames are
split, as in the official code (492/60/60, in the order of the files on disk), so test frames are neighbours of training
frames.
"""

import csv
import sys
from pathlib import Path

from checks import check_labelled_picture
from common import Dataset, main
from sdseg_monai.errors import InputError

# Last frame of each of the 29 sequences. Source: https://polyp.grand-challenge.org/CVCClinicDB/
SEQUENCE_ENDS = (
    *(25, 50, 67, 78, 103, 126, 151, 177, 199, 205, 227, 252, 277, 297, 317),
    *(342, 363, 383, 408, 428, 447, 466, 478, 503, 528, 546, 571, 591, 612),
)


def check_sequences(dataset_dir: Path) -> None:
    """Compare the sequences with the table ``metadata.csv``, which is in the copy on Kaggle.

    Raises:
        InputError: the table cannot be read, or its sequences end at other frames.
    """
    table = dataset_dir / "metadata.csv"
    if not table.is_file():
        return
    try:
        with table.open(newline="") as file:
            sequences = {int(Path(row["png_image_path"]).stem): row["sequence_id"] for row in csv.DictReader(file)}
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise InputError(f"{table}: {error!r}, expected the columns png_image_path and sequence_id") from error
    ends = tuple(frame for frame in sorted(sequences) if sequences[frame] != sequences.get(frame + 1))
    if ends != SEQUENCE_ENDS:
        raise InputError(f"{table}: sequences end at the frames {ends}, expected {SEQUENCE_ENDS} as in the splits")


CVC = Dataset(
    splits=("cvc_sequences_488_62_62", "cvc_frames_488_62_62"),
    layouts=(
        ("PNG/Original/{case}.png", "PNG/Ground Truth/{case}.png"),
        ("Original/{case}.png", "Ground Truth/{case}.png"),
        ("Original/{case}.tif", "Ground Truth/{case}.tif"),
    ),
    check_case=check_labelled_picture,
    check_folder=check_sequences,
)

if __name__ == "__main__":
    sys.exit(main(CVC, __doc__))
