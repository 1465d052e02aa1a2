"""The frames of one multi-frame file as one volume; of the extra's packages this needs only pydicom."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sdseg_monai.errors import InputError
from sdseg_monai.io.dicom.extra import require
from sdseg_monai.io.dicom.stack import check_regular_grid, is_plane, slice_order
from sdseg_monai.io.geometry import LPS_TO_RAS
from sdseg_monai.io.memory import check_memory
from sdseg_monai.io.volumes import Volume, checked_volume

if TYPE_CHECKING:
    from pydicom.dataset import Dataset


@dataclass(frozen=True, eq=False)
class FrameGrid:
    """The regular grid that the frames of a file form.

    Attributes:
        order: indices of the frames in order against their normal, as in highdicom, [Z].
        shape: numbers of columns, rows and frames.
        affine: from voxel to RAS+ millimetres, [4, 4].
    """

    order: np.ndarray
    shape: tuple[int, int, int]
    affine: np.ndarray


def read_frames(files: Sequence[Path], name: str) -> Volume:
    """Read the multi-frame file of a series.

    Args:
        files: of the series.
        name: of the volume, also in messages.

    Returns:
        Real values (HU in CT), float32, [X, Y, Z] as columns, rows and frames against their normal.

    Raises:
        InputError: there are several files, the file is damaged, its frames do not form a regular grid, it has several
            values per voxel or one that is not finite, or pydicom is not installed.
    """
    config = require("pydicom.config")
    with config.disable_value_validation():
        image = open_multi_frame(files, name)
        grid = frame_grid(image, name)
        check_memory(grid.shape, name)
        try:
            frames = image.pixel_array
            if frames.ndim != 3:
                raise InputError(f"{name}: {frames.shape[-1]} values per voxel, expected one")
            stack = np.stack([_real_values(frames[index], image, index) for index in grid.order])
        except InputError:
            raise
        except Exception as error:  # pydicom's decoders have exceptions of their own
            raise InputError(f"{name}: its frames cannot be read as one volume ({_reason(error)})") from error
    return checked_volume(np.ascontiguousarray(stack.T), grid.affine, name)


def open_multi_frame(files: Sequence[Path], name: str) -> Dataset:
    """Return the dataset of the only file of a multi-frame series.

    Raises:
        InputError: there are several files, or the file is damaged.
    """
    if len(files) > 1:
        raise InputError(f"{name}: {len(files)} multi-frame files, expected one of them")
    try:
        return require("pydicom").dcmread(files[0])
    except InputError:
        raise
    except Exception as error:  # pydicom raises whatever a damaged element leads to
        raise InputError(f"{name}: not a readable multi-frame file ({_reason(error)})") from error


def frame_grid(image: Dataset, name: str) -> FrameGrid:
    """Return the grid of the frames of a file.

    Raises:
        InputError: the frames' positions are missing, or the frames do not form a regular grid.
    """
    count = int(image.NumberOfFrames)
    try:
        cosines, positions, edges = (
            np.array([_macro(image, index, sequence)[keyword].value for index in range(count)], dtype=np.float64)
            for sequence, keyword in (
                ("PlaneOrientationSequence", "ImageOrientationPatient"),
                ("PlanePositionSequence", "ImagePositionPatient"),
                ("PixelMeasuresSequence", "PixelSpacing"),  # of rows, of columns
            )
        )
        if not is_plane(cosines[0]) or not (edges > 0).all():
            raise ValueError("directions that are not at right angles, or pixels without a size")
        order = slice_order(cosines[0], positions)[::-1]
        positions = positions[order]
        check_regular_grid(cosines, positions, edges, name)
    except Exception as error:  # attributes that are missing, are not numbers or too few, or no regular grid
        reason = str(error).removeprefix(f"{name}: its slices ") if isinstance(error, InputError) else _reason(error)
        raise InputError(
            f"{name}: its frames do not form a regular grid ({reason}), expected one evenly spaced stack, no frame "
            "missing or twice"
        ) from error
    row, column = cosines[0].reshape(2, 3)
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = row * edges[0, 1], column * edges[0, 0]
    normal = np.cross(row, column)
    affine[:3, 2] = normal * ((positions[-1] - positions[0]) @ normal / (count - 1))
    affine[:3, 3] = positions[0]
    return FrameGrid(order, (int(image.Columns), int(image.Rows), count), LPS_TO_RAS @ affine)


def _macro(image: Dataset, index: int, sequence: str) -> Dataset:
    """Return a functional group macro of a frame: from the per-frame groups, or else from the shared ones."""
    frame_groups = image.PerFrameFunctionalGroupsSequence[index]
    return (frame_groups if sequence in frame_groups else image.SharedFunctionalGroupsSequence[0])[sequence][0]


def _real_values(frame: np.ndarray, image: Dataset, index: int) -> np.ndarray:
    if "ModalityLUTSequence" in image:
        return require("pydicom.pixel_data_handlers").apply_modality_lut(frame, image).astype(np.float32)
    try:
        transform = _macro(image, index, "PixelValueTransformationSequence")
    except (KeyError, AttributeError):
        transform = image
    slope, intercept = transform.get("RescaleSlope"), transform.get("RescaleIntercept")
    if slope is not None and float(slope) == 0:
        raise ValueError("a RescaleSlope of 0, expected intensities")
    return frame.astype(np.float32) * np.float32(1 if slope is None else slope) + np.float32(intercept or 0)


def _reason(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
