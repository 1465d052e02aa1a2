"""REFUGE2 (refuge.grand-challenge.org, unpacked): check 1200 photographs, write masks of the optic cup and a datalist.

--crop none, the default, uses whole photographs. --crop disc cuts a square of 800 pixels around the labelled disc of
each photograph, also in the test split. This is closer to the paper, whose crops are lost, but then the scores depend
on the labels of the test split.
"""

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from checks import check_same_size, check_values
from common import Dataset, Item, make_parser, run
from sdseg_monai.errors import InputError
from sdseg_monai.io.files import write_atomically
from sdseg_monai.io.pictures import read_picture, write_picture_mask

CUP, DISC, BACKGROUND = 0, 128, 255
CROP_SIZE = 800  # pixels; DiscROI_size of MNet_DeepCDR, which the paper cropped with
CROPS = {
    "none": "whole photographs",
    "disc": f"{CROP_SIZE} pixels around the labelled disc, in the test split too, so that test labels leak into it",
}


def read_regions(path: Path) -> np.ndarray:
    """Read a REFUGE mask as [H, W]: 0 cup, 128 disc, 255 background.

    Raises:
        InputError: the file cannot be read.
    """
    return read_picture(path)[0]


def check_case(image_path: Path, label_path: Path) -> None:
    """Check a photograph and its mask of three values.

    Raises:
        InputError: a file cannot be read, the two have different sizes, or the mask has other values or no disc.
    """
    regions = read_regions(label_path)
    check_same_size(image_path, read_picture(image_path), label_path, regions)
    check_values(label_path, regions, frozenset({CUP, DISC, BACKGROUND}))
    if not (regions != BACKGROUND).any():
        raise InputError(f"{label_path}: background all over, expected a disc ({DISC}) with its cup ({CUP})")


def find_crop(regions: np.ndarray, size: int) -> tuple[slice, slice]:
    """Return the rows and columns of a square of ``size`` pixels around the disc, moved into the image [H, W]."""
    crop = []
    for axis, length in enumerate(regions.shape):
        disc_indices = np.flatnonzero((regions != BACKGROUND).any(axis=1 - axis))
        centre = (disc_indices[0] + disc_indices[-1] + 1) // 2
        start = int(np.clip(centre - size // 2, 0, max(length - size, 0)))
        crop.append(slice(start, min(start + size, length)))
    return crop[0], crop[1]


def prepare(dataset_dir: Path, split: str, item: Item, crop: str) -> Item:
    """Write the mask of the cup, cropped like its photograph if ``crop`` is ``disc``, and return the new item."""
    name = f"{Path(item['image']).stem}.png"
    folder = Path(f"cup_crop_{crop}")
    regions = read_regions(dataset_dir / item["label"])
    new_item = {"image": item["image"], "label": str(folder / "masks" / name)}
    if crop == "disc":
        rows, columns = find_crop(regions, CROP_SIZE)
        regions = regions[rows, columns]
        image = read_picture(dataset_dir / item["image"])[:, rows, columns]
        picture = Image.fromarray(image.astype(np.uint8).transpose(1, 2, 0))
        new_item["image"] = str(folder / "images" / name)
        path = dataset_dir / new_item["image"]
        write_atomically(path, lambda temporary: picture.save(temporary, format="PNG"), ".png")
    write_picture_mask(dataset_dir / new_item["label"], regions == CUP)
    return new_item


REFUGE2 = Dataset(
    splits=("refuge2_720_80_400",),
    layouts=(("**/{case}.jpg", "**/{case}.bmp"),),
    check_case=check_case,
)


def main() -> int:
    """Run the script; return its exit code."""
    parser = make_parser(REFUGE2, __doc__)
    parser.add_argument("--crop", choices=CROPS, default="none", help="what to cut out of a photograph (default: none)")
    options = parser.parse_args()
    return run(replace(REFUGE2, prepare=partial(prepare, crop=options.crop)), options, crop=CROPS[options.crop])


if __name__ == "__main__":
    sys.exit(main())
