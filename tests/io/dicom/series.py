"""Series of volumes on oblique, reversed and sagittal grids, and what tests change in them."""

from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
from scipy.spatial.transform import Rotation

from sdseg_monai.io.segments import Segment
from sdseg_monai.io.volumes import Volume
from tests.makers.dicom import write_mr_series
from tests.makers.volumes import write_nifti

SHAPE = (14, 10, 6)
LIVER = ("10200004", "SCT", "Liver")
SEGMENTS = {1: Segment("Anterior", (230, 40, 10), None), 2: Segment("Posterior", (20, 60, 220), LIVER)}


def affine(directions: np.ndarray) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = directions * [0.9, 1.2, 2.5]
    matrix[:3, 3] = -31.5, 12.25, 7.125
    return matrix


OBLIQUE = affine(Rotation.from_euler("xyz", [25, -15, 40], degrees=True).as_matrix())
REVERSED = affine(Rotation.from_euler("xyz", [5, 12, -8], degrees=True).as_matrix() @ np.diag([-1, -1, -1]))
SAGITTAL = affine(np.array([[0.0, 0, 1], [1, 0, 0], [0, -1, 0]]))
GRIDS = {"oblique": OBLIQUE, "reversed": REVERSED, "sagittal": SAGITTAL}


def make_volume(folder: Path, matrix: np.ndarray = OBLIQUE, shape=SHAPE, seed=0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    array = np.random.default_rng(seed).integers(0, 4000, shape).astype(np.int16)
    write_nifti(folder / f"volume_{seed}.nii", array, matrix)
    return folder / f"volume_{seed}.nii"


def uids(file: Path) -> dict[str, str]:
    dataset = pydicom.dcmread(file)
    return {keyword: str(dataset[keyword].value) for keyword in ("StudyInstanceUID", "SeriesInstanceUID")}


def make_series(folder: Path, matrix: np.ndarray = OBLIQUE, shape=SHAPE, seed=0, **attributes: object) -> list[Path]:
    return write_mr_series(make_volume(folder.parent / "volumes", matrix, shape, seed), folder, **attributes)


def make_labels(volume: Volume) -> np.ndarray:
    """Return a mask in which no axis can be turned or swapped unseen; the second segment lies in a few slices."""
    labels = np.zeros(volume.array.shape, np.uint8)
    labels[volume.array > 3000] = 1
    labels[1:4, 2:9, -3:-1] = 2
    return labels


def edit(path: Path, **values: object) -> None:
    dataset = pydicom.dcmread(path)
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    dataset.save_as(path)


def make_enhanced(files: list[Path], path: Path, order: list[int]) -> None:
    """Write slices as one multi-frame file, its frames in that order."""
    slices = [pydicom.dcmread(file) for file in files]
    enhanced = hd.legacy.LegacyConvertedEnhancedMRImage(slices, hd.UID(), 7, hd.UID(), 1)
    frames = enhanced.pixel_array[order]
    enhanced.PixelData = frames.tobytes()
    groups = enhanced.PerFrameFunctionalGroupsSequence
    enhanced.PerFrameFunctionalGroupsSequence = [groups[index] for index in order]
    path.parent.mkdir(parents=True)
    enhanced.save_as(path)
