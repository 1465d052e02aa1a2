"""A DICOM series as one volume."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from sdseg_monai.errors import InputError

LARGEST_UNEVENNESS = 0.01  # of the slices' spacing
LARGEST_TILT = 1e-3  # of direction cosines: between slices, and between their axes and the step to the next
ORIENTATION = "0020|0037"  # direction cosines of a slice's rows and columns, with backslashes between
UNEVEN = "ITK_non_uniform_sampling_deviation"  # set where slices are unevenly spaced


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
        reader.SetSpacingWarningRelThreshold(LARGEST_UNEVENNESS)
        reader.ForceOrthogonalDirectionOff()
        reader.MetaDataDictionaryArrayUpdateOn()
        image = reader.Execute()
        cosines = [reader.GetMetaData(slice_, ORIENTATION).split("\\") for slice_ in range(len(names))]
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise InputError(f"{name}: its slices cannot be read as one volume ({reason})") from error
    if np.ptp(np.array(cosines, dtype=float), axis=0).max() > LARGEST_TILT:
        raise InputError(f"{name}: its slices lie in several directions, expected one stack")
    if UNEVEN in image.GetMetaDataKeys():
        raise InputError(f"{name}: its slices are not evenly spaced, expected one stack, none missing")
    axes = np.reshape(image.GetDirection(), (3, 3))
    if np.abs(axes.T @ axes - np.eye(3)).max() > LARGEST_TILT:
        raise InputError(f"{name}: its slices are sheared (tilted gantry), expected a box")
    return image
