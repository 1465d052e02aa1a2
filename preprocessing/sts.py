"""STS-3D (toothfairychallenges.github.io): check the labelled CBCT volumes and write their datalist.

The labels of the training split are cleaned as in the official code, and written to new files in the folder
label_cleaned beside label. The labels of the other splits do not change.
"""

import sys
import warnings
from pathlib import Path

import numpy as np
from monai.transforms import RemoveSmallObjects

from checks import read_labelled_volume
from common import Dataset, Item, main
from sdseg_monai.errors import InputError
from sdseg_monai.io.volumes import read_volume, write_volume

WINDOW_LEVEL = 500  # HU; the window of 1200 around it is the bundle's intensity_range
SMALLEST_OBJECT = 64  # voxels


def check_case(image_path: Path, label_path: Path) -> None:
    """Check a volume in Hounsfield units and its binary label.

    Raises:
        InputError: see :func:`checks.read_labelled_volume`; or the image has no value as high as those of teeth, as in
            the release on Zenodo, which is scaled to 0 to 1.
    """
    image, _ = read_labelled_volume(image_path, label_path, frozenset({0, 1}))
    highest = float(image.array.max())
    if highest < WINDOW_LEVEL:
        raise InputError(f"{image_path}: its highest value is {highest:g}, expected teeth above {WINDOW_LEVEL} HU")


def clean_label(image: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Remove objects of fewer than 64 voxels, and voxels outside the field of view, from a label.

    Voxels that touch at a corner belong to one object. Outside the field of view the image has its lowest value.

    Args:
        image: [X, Y, Z].
        label: [X, Y, Z].

    Returns:
        The cleaned label, [X, Y, Z], uint8.

    Source: data/sts3d/sts3d_preprocess.py of the official code.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of scikit-image, for MONAI's min_size
        objects = RemoveSmallObjects(SMALLEST_OBJECT, connectivity=3)(label[None] > 0)[0]
    return (np.asarray(objects, dtype=bool) & (image > image.min())).astype(np.uint8)


def prepare(dataset_dir: Path, split: str, item: Item) -> Item:
    """Write the cleaned label of a training case and return the item that names it."""
    if split != "training":
        return item
    label_path = dataset_dir / item["label"]
    cleaned_path = label_path.parent.with_name("label_cleaned") / label_path.name
    if cleaned_path.parent.resolve() == label_path.parent.resolve():
        raise InputError(
            f"{cleaned_path.parent}: is the folder of the labels, which are not to be replaced: remove the link"
        )
    label = clean_label(read_volume(dataset_dir / item["image"]).array, read_volume(label_path).array)
    if not label.any():
        raise InputError(f"{label_path}: nothing is left of it without objects of fewer than {SMALLEST_OBJECT} voxels")
    write_volume(cleaned_path, label, label_path)
    return {**item, "label": str(cleaned_path.relative_to(dataset_dir))}


STS = Dataset(
    splits=("sts_9_3",),
    layouts=(
        ("labelled/image/{case}_0000.nii.gz", "labelled/label/{case}_0000.nii.gz"),
        ("image/{case}_0000.nii.gz", "label/{case}_0000.nii.gz"),
    ),
    check_case=check_case,
    prepare=prepare,
)

if __name__ == "__main__":
    sys.exit(main(STS, __doc__))
