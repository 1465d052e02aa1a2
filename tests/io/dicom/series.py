"""Series of volumes on oblique, reversed and sagittal grids, functions that change their headers, and reading them."""

from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest

from sdseg_monai.errors import InputError
from sdseg_monai.io.dicom import choose_series, read_series
from sdseg_monai.io.segments import Segment
from sdseg_monai.io.volumes import Volume
from tests.makers.dicom import OBLIQUE, REVERSED, SAGITTAL, write_mr_series, write_noise

SHAPE = (14, 10, 6)
LIVER = ("10200004", "SCT", "Liver")
SEGMENTS = {1: Segment("Anterior", (230, 40, 10), None), 2: Segment("Posterior", (20, 60, 220), LIVER)}


GRIDS = {"oblique": OBLIQUE, "reversed": REVERSED, "sagittal": SAGITTAL}


def uids(file: Path) -> dict[str, str]:
    dataset = pydicom.dcmread(file)
    return {keyword: str(dataset[keyword].value) for keyword in ("StudyInstanceUID", "SeriesInstanceUID")}


def make_series(folder: Path, matrix: np.ndarray = OBLIQUE, shape=SHAPE, seed=0, **attributes: object) -> list[Path]:
    volume = write_noise(folder.parent / "volumes" / f"volume_{seed}.nii", matrix, shape, seed)
    return write_mr_series(volume, folder, **attributes)


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


def read(file: Path) -> np.ndarray:
    """Return the voxels of the only series in the folder of a file."""
    return read_series(choose_series(file.parent)).array


def refusal(file: Path) -> str:
    """Return why that series is refused."""
    with pytest.raises(InputError) as caught:
        read(file)
    return str(caught.value)
