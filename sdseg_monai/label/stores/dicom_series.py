"""A DICOM series as one volume."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from sdseg_monai.errors import InputError

LARGEST_OFFSET = 0.05  # of a slice from where even spacing would have it, in spacings
LARGEST_TILT = 1e-3  # of direction cosines: between slices, and between their normal and the way to the next
POSITION, ORIENTATION = "0020|0032", "0020|0037"  # of a slice: numbers with backslashes between


def read_series(folder: Path) -> sitk.Image:
    """Read the slices in ``folder``, in the order of their positions along their normal.

    Raises:
        InputError: they cannot be read, or do not form a grid: one is missing, they lie in several stacks, or are
            sheared against each other, as those of a tilted gantry.
    """
    sitk.ProcessObject.SetGlobalWarningDisplay(False)  # it writes to stderr past Python
    name = f"series {folder.name}"
    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder))
    try:
        if len(names) == 1:  # one slice, or a multi-frame file, which has a spacing of its own
            return sitk.ReadImage(names[0])
        reader = sitk.ImageSeriesReader()
        reader.SetFileNames(names)
        reader.MetaDataDictionaryArrayUpdateOn()
        image = reader.Execute()
        slices = range(len(names))
        cosines, positions = (
            np.array([reader.GetMetaData(index, key).split("\\") for index in slices], dtype=float)
            for key in (ORIENTATION, POSITION)
        )
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[-1]
        raise InputError(f"{name}: its slices cannot be read as one volume ({reason})") from error
    if np.ptp(cosines, axis=0).max() > LARGEST_TILT:
        raise InputError(f"{name}: its slices lie in several directions, expected one stack")
    step = (positions[-1] - positions[0]) / (len(names) - 1)
    spacing = np.linalg.norm(step)
    offset = np.abs(positions - positions[0] - np.outer(slices, step)).max()
    if offset >= LARGEST_OFFSET * spacing:
        raise InputError(f"{name}: its slices are not evenly spaced, expected one stack, none missing")
    if np.linalg.norm(np.cross(np.cross(cosines[0, :3], cosines[0, 3:]), step / spacing)) > LARGEST_TILT:
        raise InputError(f"{name}: its slices are sheared (tilted gantry), expected a box")
    return image
