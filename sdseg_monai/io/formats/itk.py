"""What this package asks of ITK: where it would place a NIfTI file, and to write NRRD and MHA files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from sdseg_monai.io.formats.geometry import LPS_TO_RAS
from sdseg_monai.io.temporary import scratch_folder


def itk_affine(image: sitk.Image | sitk.ImageFileReader) -> np.ndarray:
    """Return the affine [4, 4] of an ITK image from voxel to RAS+ millimetres."""
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return LPS_TO_RAS @ affine


def itk_nifti_affine(header: bytes) -> np.ndarray | None:
    """Return where ITK places the voxels of a NIfTI file, [4, 4] to RAS+ millimetres; None where it refuses the file.

    Args:
        header: of 2 x 2 x 2 voxels. ITK gets it as a file of its own, so that neither the name nor the rest of the
            user's file can matter to it.
    """
    sitk.ProcessObject.SetGlobalWarningDisplay(False)  # it writes to stderr past Python
    with scratch_folder() as folder:
        path = folder / "header.nii"
        path.write_bytes(header)
        reader = sitk.ImageFileReader()
        reader.SetFileName(str(path))
        try:
            reader.ReadImageInformation()
        except RuntimeError:
            return None
    affine = itk_affine(reader) if reader.GetDimension() == 3 else None
    return affine if affine is not None and np.isfinite(affine).all() else None


def write_itk(path: Path, array: np.ndarray, affine: np.ndarray, compress: bool, description: str = "") -> None:
    """Write an array [X, Y, Z] as NRRD or MHA.

    Args:
        path: whose suffix is that of the format.
        array: voxels; their dtype is that of the file.
        affine: from voxel to RAS+ millimetres, [4, 4].
        compress: whether the voxels are compressed.
        description: content of an NRRD file, comment of an MHA file.

    Raises:
        OSError: the file cannot be written.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise OSError("the folder's name is not valid UTF-8, which ITK needs") from error
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.T))
    lps_affine = LPS_TO_RAS @ affine
    spacing = np.linalg.norm(lps_affine[:3, :3], axis=0)
    image.SetOrigin(lps_affine[:3, 3].tolist())
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps_affine[:3, :3] / spacing).ravel().tolist())
    if description:
        image.SetMetaData("NRRD_content" if path.suffix.lower() == ".nrrd" else "Comment", description)
    try:
        sitk.WriteImage(image, str(path), compress)
    except RuntimeError as error:
        raise OSError(_reason(error)) from error


def _reason(error: BaseException) -> str:
    """Return the line of an ITK error that says what went wrong, without those that say where in ITK's code."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reasons = [line for line in lines if "determinant" in line.lower() or "error" in line.lower()]
    return (reasons or lines or [type(error).__name__])[-1]
