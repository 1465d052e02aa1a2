"""Folders of images and labels from which bundles are made."""

import json
from pathlib import Path

import numpy as np

from sdseg_monai.planning import fingerprint_folders
from sdseg_monai.planning.proposal import propose_grid
from tests.makers.photographs import write_photograph
from tests.makers.volumes import OBLIQUE, load_nifti, write_case, write_nifti

SPEED = 0.05  # seconds a slice, so that proposals do not depend on the machine
FLAT = np.diag([0.8, 0.8, 4.0, 1.0])


def write_ct(folder: Path, count=4, shape=(40, 44, 8), affine=FLAT):
    """Write volumes with air around a body, a ball of another density in it."""
    for i in range(count):
        write_case(folder, f"case{i}", shape=shape, affine=affine, seed=i)
        path = folder / "images" / f"case{i}.nii.gz"
        image = np.asarray(load_nifti(path).dataobj).astype(np.int16)
        image[:6] = -1000
        write_nifti(path, image, affine)
    return folder / "images", folder / "labels"


def write_mr(folder: Path, count=4, shape=(24, 9, 26), affine=OBLIQUE, classes=2):
    """Write volumes without negative values; with several classes the ball has one each along the last axis."""
    for i in range(count):
        write_case(folder, f"case{i}", shape=shape, affine=affine, seed=i)
        for kind in ("images", "labels"):
            path = folder / kind / f"case{i}.nii.gz"
            array = np.asarray(load_nifti(path).dataobj).copy()
            if kind == "images":
                array += 200
            else:
                planes = np.flatnonzero(array.any(axis=(0, 1)))  # of the ball
                bands = np.array_split(planes, classes - 1)
                for value, band in enumerate(bands, start=1):
                    array[:, :, band] *= value
            write_nifti(path, array, affine)
    return folder / "images", folder / "labels"


def write_pictures(folder: Path, count=4):
    """Write photographs and their masks."""
    for i in range(count):
        write_photograph(folder, f"p{i}", seed=i, size=(40, 48))
    return folder / "images", folder / "masks"


KINDS = {
    "ct": (write_ct, 2),
    "mr": (write_mr, 2),
    "mr, three classes": (lambda folder: write_mr(folder, classes=3), 3),
    "pictures": (write_pictures, 2),
}


def config(plan, name):
    return json.loads((plan.output / "configs" / f"{name}.json").read_text())


def propose(fingerprint, names=None, **options):
    return propose_grid(fingerprint, names or {1: "organ"}, **options)


def look(images, labels):
    return fingerprint_folders(images, labels, progress=False)
