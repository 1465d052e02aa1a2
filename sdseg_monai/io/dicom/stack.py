"""The slices of a DICOM series as one volume; this needs only SimpleITK."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from sdseg_monai.errors import InputError
from sdseg_monai.io.memory import check_memory

LARGEST_OFFSET = 0.05  # of a slice from its evenly spaced position, in spacings
LARGEST_TILT = 1e-3  # of direction cosines: between slices, and between the normal and the direction of the stack
# ITK's keys of the elements of a slice, whose numbers are separated by backslashes
POSITION, ORIENTATION, SPACING, SLOPE = "0020|0032", "0020|0037", "0028|0030", "0028|1053"


def read_stack(files: Sequence[Path], name: str) -> sitk.Image:
    """Read slices and sort them by their positions along their normal.

    Args:
        files: of single slices in any order, or one multi-frame file.
        name: of the series in messages.

    Returns:
        Real values (HU in CT), float32.

    Raises:
        InputError: the slices cannot be read, their positions or orientations are missing, or they do not form a
            regular grid: one is missing, they form several stacks, or they are sheared, as with a tilted gantry.
    """
    sitk.ProcessObject.SetGlobalWarningDisplay(False)  # ITK writes its warnings to stderr itself, past Python
    try:
        headers = [_read_header(file) for file in files]
        _check_sizes(headers, name)
        if headers[0].GetSize()[2:] in ((), (1,)):
            for header in headers:
                _check_geometry(header, name)
        if len(headers) == 1:  # one slice, or a multi-frame file, from which ITK reads the spacing
            headers[0].SetOutputPixelType(sitk.sitkFloat32)
            return headers[0].Execute()
        cosines, positions = (
            np.array([header.GetMetaData(key).split("\\") for header in headers], dtype=float)
            for key in (ORIENTATION, POSITION)
        )
        order = slice_order(cosines[0], positions)
        edges = np.array([header.GetSpacing()[:2] for header in headers])
        check_regular_grid(cosines, positions[order], edges, name)
        reader = sitk.ImageSeriesReader()
        reader.SetImageIO("GDCMImageIO")
        reader.SetFileNames([str(files[index]) for index in order])
        reader.SetOutputPixelType(sitk.sitkFloat32)  # each slice may have its own RescaleSlope
        return reader.Execute()
    except InputError:
        raise
    except (RuntimeError, ValueError, MemoryError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1].rpartition("): ")[2]  # ITK's pointer
        raise InputError(
            f"{name}: its slices cannot be read ({reason}): truncated, damaged, or of an unknown compression"
        ) from error


def slice_order(cosines: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Return the indices [N] that sort slices along their normal.

    Args:
        cosines: ImageOrientationPatient of a slice, [6].
        positions: ImagePositionPatient of each slice, [N, 3], in millimetres.
    """
    return np.argsort(positions @ np.cross(cosines[:3], cosines[3:]), kind="stable")


def is_plane(cosines: np.ndarray) -> bool:
    """Tell whether direction cosines, [6], are two unit vectors at right angles."""
    axes = cosines.reshape(-1, 3)
    return len(axes) == 2 and bool(np.abs(axes @ axes.T - np.eye(2)).max() <= LARGEST_TILT)


def check_regular_grid(cosines: np.ndarray, positions: np.ndarray, edges: np.ndarray, name: str) -> None:
    """Check that several slices form a regular grid.

    Args:
        cosines: ImageOrientationPatient of the slices, [N, 6].
        positions: ImagePositionPatient of the slices, in order along their normal, [N, 3], in millimetres.
        edges: PixelSpacing of the slices, [N, 2], in millimetres.
        name: of the series in messages.

    Raises:
        InputError: the slices differ in the size of their pixels or in direction, one is missing or there twice, or
            they are sheared.
    """
    if np.ptp(edges, axis=0).max() > LARGEST_TILT * edges.min():
        raise InputError(f"{name}: its slices have pixels of several sizes, expected one stack")
    if np.ptp(cosines, axis=0).max() > LARGEST_TILT:
        raise InputError(f"{name}: its slices lie in several directions, expected one stack")
    step = (positions[-1] - positions[0]) / (len(positions) - 1)
    spacing = np.linalg.norm(step)
    offset = np.abs(positions - positions[0] - np.outer(range(len(positions)), step)).max()
    if offset >= LARGEST_OFFSET * spacing:
        raise InputError(f"{name}: its slices are not evenly spaced, expected one stack, none missing")
    if np.linalg.norm(np.cross(np.cross(cosines[0, :3], cosines[0, 3:]), step / spacing)) > LARGEST_TILT:
        raise InputError(f"{name}: its slices are sheared (tilted gantry), expected a stack along their normal")


def _read_header(file: Path) -> sitk.ImageFileReader:
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(file))
    reader.ReadImageInformation()
    return reader


def _check_sizes(headers: Sequence[sitk.ImageFileReader], name: str) -> None:
    if not headers:
        raise InputError(f"{name}: no slices, expected at least one")
    sizes = {header.GetSize() for header in headers}
    if len(sizes) > 1:
        sizes_text = ", ".join(" x ".join(map(str, size)) for size in sorted(sizes))
        raise InputError(f"{name}: its slices are of several sizes ({sizes_text}), expected one stack")
    if len(headers) > 1 and math.prod(headers[0].GetSize()[2:]) > 1:
        raise InputError(f"{name}: {len(headers)} multi-frame files, expected one of them")
    if headers[0].GetNumberOfComponents() != 1:
        raise InputError(f"{name}: {headers[0].GetNumberOfComponents()} values per voxel, expected one")
    check_memory((*headers[0].GetSize(), len(headers)), name)


def _check_geometry(header: sitk.ImageFileReader, name: str) -> None:
    """Check a slice's spacing, orientation and position, where ITK would put in values of its own."""
    spacing, cosines, position = (_numbers(header, key) for key in (SPACING, ORIENTATION, POSITION))
    if len(spacing) != 2 or not (spacing > 0).all():
        raise InputError(f"{name}: a slice without the size of its pixels (PixelSpacing), expected it in mm")
    if not is_plane(cosines) or len(position) != 3:
        raise InputError(
            f"{name}: a slice that does not say how it lies in the patient (ImageOrientationPatient, "
            "ImagePositionPatient), expected two directions at right angles and a position"
        )
    if header.HasMetaDataKey(SLOPE) and not _numbers(header, SLOPE).all():
        raise InputError(f"{name}: a slice whose RescaleSlope is 0, expected intensities")


def _numbers(header: sitk.ImageFileReader, key: str) -> np.ndarray:
    """Return the numbers of an element, [N]; empty where their count is none that these elements have: 1, 2 or 3 n."""
    text = header.GetMetaData(key) if header.HasMetaDataKey(key) else ""
    try:
        numbers = np.array(text.split("\\"), dtype=float)
    except ValueError:
        return np.zeros(0)
    return numbers if len(numbers) in (1, 2) or len(numbers) % 3 == 0 else np.zeros(0)
