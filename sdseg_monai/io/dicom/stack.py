"""The slices of a DICOM series, one file each, as one volume."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import SimpleITK as sitk

from sdseg_monai.errors import InputError
from sdseg_monai.io.arrays import chunks, make_array
from sdseg_monai.io.dicom import groups, pixel_data, values
from sdseg_monai.io.dicom.extra import require
from sdseg_monai.io.dicom.grid import grid_affine, grid_fault, is_plane, slice_order, some
from sdseg_monai.io.dicom.instances import number_of, read_dataset, slice_thickness, text_of
from sdseg_monai.io.dicom.terms import plain_text
from sdseg_monai.io.memory import check_memory
from sdseg_monai.io.temporary import scratch_folder
from sdseg_monai.io.volumes import Volume, checked_volume

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

# fmt: off
PLACE = [
    "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "FrameOfReferenceUID",
]
REASONS = {  # why there may be several slices at one position
    "EchoTime": "echo time", "TemporalPositionIdentifier": "time point", "DiffusionBValue": "b-value",
    "TriggerTime": "trigger time", "InversionTime": "inversion time", "FlipAngle": "flip angle",
    "AcquisitionNumber": "acquisition number",
}
# fmt: on


@dataclass(frozen=True, eq=False)
class _Slice:
    """A slice that may be read: its values mean what is read here, and it says where it lies.

    Attributes:
        path: of the file.
        name: in messages.
        header: the elements that were read.
        position: ImagePositionPatient, [3].
        cosines: ImageOrientationPatient, [6].
        edges: PixelSpacing, [2].
    """

    path: Path
    name: str
    header: Dataset
    position: np.ndarray
    cosines: np.ndarray
    edges: np.ndarray

    @property
    def size(self) -> tuple[int, int]:
        """Numbers of columns and rows."""
        return number_of(self.header, "Columns") or 0, number_of(self.header, "Rows") or 0


def read_stack(files: Sequence[Path], name: str, *, on_disk: bool = False) -> Volume:
    """Read slices and sort them by their positions along their normal.

    Args:
        files: of single slices in any order.
        name: of the series, also in messages.
        on_disk: whether a large array may lie in a temporary file, see :func:`~sdseg_monai.io.arrays.make_array`.

    Returns:
        Real values (HU in CT), float32, [X, Y, Z] as columns, rows and slices. A single slice is as thick as
        SliceThickness says, else SpacingBetweenSlices, else 1 mm.

    Raises:
        InputError: the slices cannot be read, their positions or orientations are missing, they do not form a regular
            grid, see :func:`~sdseg_monai.io.dicom.grid.grid_fault`, or lie in several frames of reference, they have
            more or fewer pixels than their headers say, or their values mean something that is not applied here, see
            :func:`~sdseg_monai.io.dicom.values.check_values`.
    """
    if not files:
        raise InputError(f"{name}: no slices, expected at least one")
    with require("pydicom.config").disable_value_validation():
        slices = [_read_slice(path, label, name) for path, label in zip(files, file_names(files), strict=True)]
        _check_sizes(slices, name)
        if not on_disk:
            check_memory((*slices[0].size, len(slices)), name)
        order = slice_order(slices[0].cosines, np.array([item.position for item in slices]))
        slices = [slices[index] for index in order]
        positions = np.array([item.position for item in slices])
        if len(slices) > 1:
            cosines, edges = np.array([item.cosines for item in slices]), np.array([item.edges for item in slices])
            fault = grid_fault(cosines, positions, edges, [item.name for item in slices], _attributes(slices))
            if fault is not None:
                raise InputError(f"{name}: its slices {fault}")
            _check_references(slices, name)
        array = make_array((*slices[0].size, len(slices)), np.float32, on_disk=on_disk)
        _read_voxels(slices, name, array)
    thickness = slice_thickness(slices[0].header) or 1.0
    return checked_volume(array, grid_affine(slices[0].cosines, positions, slices[0].edges, thickness), name)


def file_names(files: Sequence[Path]) -> list[str]:
    """Return names of files in messages: their paths below the folder that holds them all."""
    folder = os.path.commonpath([file.parent for file in files])
    return [os.path.relpath(file, folder) for file in files]


def _read_slice(path: Path, label: str, name: str) -> _Slice:
    full_name = f"{name}, {label}"
    try:
        with path.open("rb") as file:
            keywords = [*PLACE, *pixel_data.KEYWORDS, *values.KEYWORDS, *groups.KEYWORDS, *REASONS]
            header = read_dataset(file, stop_before_pixels=True, specific_tags=keywords)
            pixel_data.check_is_whole(file, header, full_name)
            values.check_values(header, full_name)
            groups.check_slice_groups(header, full_name)
        spacing, cosines, position = (
            _numbers(header, keyword) for keyword in ("PixelSpacing", "ImageOrientationPatient", "ImagePositionPatient")
        )
    except InputError:
        raise
    except Exception as error:  # pydicom raises whatever a damaged element leads to, with its value in the message
        raise InputError(
            f"{full_name}: the slice cannot be read ({type(error).__name__}): truncated, damaged, or gone"
        ) from error
    if len(spacing) != 2 or not (spacing > 0).all():
        raise InputError(f"{full_name}: a slice without the size of its pixels (PixelSpacing), expected it in mm")
    if not is_plane(cosines) or len(position) != 3:
        raise InputError(
            f"{full_name}: a slice that does not say how it lies in the patient (ImageOrientationPatient, "
            "ImagePositionPatient), expected two directions at right angles and a position"
        )
    return _Slice(path, label, header, position, cosines, spacing)


def _numbers(header: Dataset, keyword: str) -> np.ndarray:
    """Return the numbers of an element, [N]; empty where it is missing or one of them is no finite number."""
    try:
        numbers = np.array(header.get(keyword), dtype=float).reshape(-1)
    except (ValueError, TypeError):
        return np.zeros(0)
    return numbers if np.isfinite(numbers).all() else np.zeros(0)


def _check_sizes(slices: Sequence[_Slice], name: str) -> None:
    sizes = [item.size for item in slices]
    if len(set(sizes)) > 1:
        by_count = sorted(set(sizes), key=sizes.count, reverse=True)
        sizes_text = ", ".join(" x ".join(map(str, size)) for size in by_count)
        others = some([item.name for item in slices], np.array([size != by_count[0] for size in sizes]))
        raise InputError(
            f"{name}: its slices are of several sizes ({sizes_text}): {others} unlike the others (a localizer?), "
            "expected one stack: move what does not belong to it out of the folder"
        )


def _check_references(slices: Sequence[_Slice], name: str) -> None:
    """Check that all positions are in one frame of reference, as those of a series are (DICOM PS3.3, C.7.4.1.1.1).

    Slices without one do not contradict the others: photographed films, files of old scanners, and those from which
    de-identification has removed all UIDs.
    """
    uids = [text_of(item.header, "FrameOfReferenceUID") for item in slices]
    by_count = sorted({uid for uid in uids if uid}, key=uids.count, reverse=True)
    if len(by_count) > 1:
        others = some([item.name for item in slices], np.array([uid not in ("", by_count[0]) for uid in uids]))
        raise InputError(
            f"{name}: its slices are in {len(by_count)} frames of reference (FrameOfReferenceUID): {others} unlike the "
            "others, so that their positions cannot be compared, expected one: move what does not belong to it out of "
            "the folder"
        )


def _attributes(slices: Sequence[_Slice]) -> dict[str, list[str]]:
    """Return what may explain several slices at one position, by its name the value in each slice."""
    attributes = {
        reason: [plain_text(text_of(item.header, keyword)) for item in slices] for keyword, reason in REASONS.items()
    }
    return {**attributes, "image type": [values.image_type(item.header) for item in slices]}


def _read_voxels(slices: Sequence[_Slice], name: str, array: np.ndarray) -> None:
    """Fill ``array`` [X, Y, Z], float32, with the values of sorted slices."""
    sitk.ProcessObject.SetGlobalWarningDisplay(False)  # ITK writes its warnings to stderr itself, past Python
    remaining = list(slices)
    for part in chunks(array):
        read, remaining = remaining[: part.shape[2]], remaining[part.shape[2] :]
        with scratch_folder() as folder:
            try:
                files = [_file_for_itk(item, folder / f"{index}.dcm") for index, item in enumerate(read)]
                image = _read_image(files)  # it must outlive its view
                part[...] = sitk.GetArrayViewFromImage(image).reshape(part.shape[::-1]).T
            except Exception as error:  # ITK raises RuntimeError, pydicom whatever a damaged element leads to
                lines = str(error).strip().splitlines() or [type(error).__name__]
                reason = lines[-1].rpartition("): ")[2]  # without ITK's pointer
                raise InputError(
                    f"{name}: its slices cannot be read ({_first_unreadable(read)}{reason}): truncated, damaged, or of "
                    "an unknown compression"
                ) from error
        for index, item in enumerate(read):
            if "ModalityLUTSequence" in item.header:
                part[:, :, index] = values.modality_values(part[:, :, index], item.header)


def _file_for_itk(item: _Slice, copy: Path) -> Path:
    if not values.is_misread(item.header):
        return item.path
    values.write_for_itk(item.path, copy)
    return copy


def _read_image(files: Sequence[Path]) -> sitk.Image:
    """Read one slice or several by ITK, each with its own RescaleSlope, as float32."""
    return sitk.ReadImage([str(file) for file in files], sitk.sitkFloat32, "GDCMImageIO")


def _first_unreadable(slices: Sequence[_Slice]) -> str:
    """Return the name of the first slice that ITK cannot read by itself, with a colon; empty where it reads each."""
    for item in slices:
        try:
            _read_image([item.path])
        except RuntimeError:
            return f"{item.name}: "
    return ""
