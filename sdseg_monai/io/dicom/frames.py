"""The frames of one multi-frame file as one volume."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sdseg_monai.errors import InputError
from sdseg_monai.io.dicom.extra import require
from sdseg_monai.io.dicom.grid import grid_affine, grid_fault, is_plane, slice_order
from sdseg_monai.io.dicom.groups import check_groups, functional_group, rescaling
from sdseg_monai.io.dicom.instances import read_dataset, text_of
from sdseg_monai.io.dicom.pixel_data import KEYWORDS, check_is_whole
from sdseg_monai.io.dicom.terms import plain_text
from sdseg_monai.io.dicom.values import check_values, modality_values, stored_values
from sdseg_monai.io.memory import check_memory
from sdseg_monai.io.volumes import Volume, checked_volume

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

REASONS = {  # macros and elements that say why there may be several frames at one position
    ("MREchoSequence", "EffectiveEchoTime"): "echo time",
    ("FrameContentSequence", "TemporalPositionIndex"): "time point",
    ("MRDiffusionSequence", "DiffusionBValue"): "b-value",
    ("CardiacSynchronizationSequence", "NominalCardiacTriggerDelayTime"): "trigger time",
}


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
        InputError: there are several files, the file is damaged, it has more or fewer frames than its header says, the
            frames do not say where they lie or do not form a regular grid, its values mean something that is not
            applied here, see :func:`~sdseg_monai.io.dicom.values.check_values` and
            :func:`~sdseg_monai.io.dicom.groups.check_groups`, or one is not finite, or pydicom is not installed.
    """
    config = require("pydicom.config")
    with config.disable_value_validation():
        image = open_multi_frame(files, name)
        grid = frame_grid(image, name)
        check_values(image, name)
        check_groups(image, len(grid.order), name)
        check_memory(grid.shape, name)
        for keyword in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths"):  # of no use, and decoders may trust it
            image.pop(keyword, None)
        try:
            frames = image.pixel_array
            stack = np.stack([_real_values(frames[index], image, index) for index in grid.order])
        except InputError:
            raise
        except Exception as error:  # pydicom's decoders have exceptions of their own
            raise InputError(f"{name}: its frames cannot be read as one volume ({_reason(error)})") from error
    return checked_volume(np.ascontiguousarray(stack.T), grid.affine, name)


def open_multi_frame(files: Sequence[Path], name: str) -> Dataset:
    """Return the dataset of the only file of a multi-frame series.

    Raises:
        InputError: there are several files, or the file is damaged or has more or fewer frames than its header says.
    """
    if len(files) > 1:
        raise InputError(f"{name}: {len(files)} multi-frame files, expected one of them")
    try:
        with files[0].open("rb") as file:
            check_is_whole(file, read_dataset(file, stop_before_pixels=True, specific_tags=KEYWORDS), name)
        return read_dataset(files[0])
    except InputError:
        raise
    except Exception as error:  # pydicom raises whatever a damaged element leads to
        raise InputError(f"{name}: not a readable multi-frame file ({_reason(error)})") from error


def frame_grid(image: Dataset, name: str) -> FrameGrid:
    """Return the grid of the frames of a file.

    Raises:
        InputError: the frames' positions are missing or of another number of frames, or the frames do not form a
            regular grid.
    """
    count = int(image.NumberOfFrames)
    if "PerFrameFunctionalGroupsSequence" not in image:
        kind = plain_text(image.SOPClassUID.name) if text_of(image, "SOPClassUID") else "an unknown kind"
        raise InputError(
            f"{name}: {count} frames in one file ({kind}) that does not say where each lies, expected an enhanced file "
            "with PerFrameFunctionalGroupsSequence, or one file for each slice"
        )
    group_count = len(image.PerFrameFunctionalGroupsSequence or [])
    if group_count != count:
        raise InputError(
            f"{name}: its header says where {group_count} frames lie (PerFrameFunctionalGroupsSequence), but that it "
            f"has {count} (NumberOfFrames), expected as many"
        )
    try:
        cosines, positions, edges = (
            np.array(
                [functional_group(image, index, sequence)[keyword].value for index in range(count)], dtype=np.float64
            )
            for sequence, keyword in (
                ("PlaneOrientationSequence", "ImageOrientationPatient"),
                ("PlanePositionSequence", "ImagePositionPatient"),
                ("PixelMeasuresSequence", "PixelSpacing"),  # of rows, of columns
            )
        )
    except Exception as error:  # attributes that are missing, are not numbers or too few
        raise InputError(
            f"{name}: its frames do not say where they lie ({_reason(error)}), expected position, orientation and size "
            "of the pixels of each"
        ) from error
    if not is_plane(cosines[0]) or positions.shape[1:] != (3,) or not (edges > 0).all():
        raise InputError(
            f"{name}: its frames have directions that are not at right angles, or pixels without a size, expected one "
            "evenly spaced stack"
        )
    order = slice_order(cosines[0], positions)
    frame_names = [f"frame {index + 1}" for index in order]
    fault = grid_fault(cosines[order], positions[order], edges[order], frame_names, _attributes(image, order))
    if fault is not None:
        raise InputError(f"{name}: its frames do not form a regular grid: they {fault}, no frame missing or twice")
    order = order[::-1]
    affine = grid_affine(cosines[0], positions[order], edges[0])
    return FrameGrid(order, (int(image.Columns), int(image.Rows), count), affine)


def _attributes(image: Dataset, order: np.ndarray) -> dict[str, list[str]]:
    """Return what may explain several frames at one position, by its name the value in each frame."""
    attributes: dict[str, list[str]] = {reason: [] for reason in REASONS.values()}
    for index in order:
        for (sequence, keyword), reason in REASONS.items():
            try:
                value = text_of(functional_group(image, index, sequence), keyword)
            except (KeyError, AttributeError, IndexError):
                value = ""
            attributes[reason].append(plain_text(value))
    return attributes


def _real_values(frame: np.ndarray, image: Dataset, index: int) -> np.ndarray:
    frame = stored_values(frame, image)
    if "ModalityLUTSequence" in image:
        return modality_values(frame, image)
    scale = rescaling(image, index)
    slope, intercept = scale.get("RescaleSlope"), scale.get("RescaleIntercept")
    return frame.astype(np.float32) * np.float32(1 if slope is None else slope) + np.float32(intercept or 0)


def _reason(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
