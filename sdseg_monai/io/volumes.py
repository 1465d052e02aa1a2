"""Volumes: reading with the checks that unknown files need, writing on the grid of another volume."""

from __future__ import annotations

import gzip
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import psutil
import SimpleITK as sitk

from sdseg_monai.errors import InputError
from sdseg_monai.io.files import check_is_folder, write_atomically
from sdseg_monai.io.itk import LPS_TO_RAS, check_itk_file, itk_affine, itk_reason, open_itk

NIFTI_SUFFIXES = (".nii.gz", ".nii")
ITK_SUFFIXES = (".nrrd", ".mha")
VOLUME_SUFFIXES = NIFTI_SUFFIXES + ITK_SUFFIXES
SLICER_SUFFIX = ".seg.nrrd"  # of 3D Slicer's segmentations
LARGEST_INTENSITY = 1e30  # float32 cannot scale larger ones
PEAK_BYTES = 18  # of memory per voxel, measured while a volume is segmented
GZIP_BEST_RATIO = 1032  # deflate cannot compress more than this
LONGEST_DESCRIPTION = 79  # bytes of NIfTI's descrip, without the final zero
NIFTI1_VOXELS, NIFTI2_VOXELS = 352, 544  # the first byte of the voxels, after the header and the extension flag


@dataclass(frozen=True)
class Volume:
    """A volume in memory.

    Attributes:
        array: voxels, [X, Y, Z], float32.
        affine: from voxel to RAS+ millimetres, [4, 4], float64.
        name: in messages; also the key of the start noise where that is drawn per slice.
    """

    array: np.ndarray
    affine: np.ndarray
    name: str = "volume"


def volume_suffix(path: Path) -> str:
    """Return the suffix of a volume file, ``.nii.gz`` and ``.seg.nrrd`` as one.

    Raises:
        InputError: the file has another suffix than :data:`VOLUME_SUFFIXES`.
    """
    for suffix in (SLICER_SUFFIX, *VOLUME_SUFFIXES):
        if path.name.lower().endswith(suffix):
            return path.name[-len(suffix) :]
    raise InputError(f"{path}: unknown kind of file, expected {', '.join(VOLUME_SUFFIXES)}")


def volume_stem(path: Path) -> str:
    """Return the file name without its volume suffix.

    Raises:
        InputError: the file has another suffix than :data:`VOLUME_SUFFIXES`.
    """
    return path.name[: -len(volume_suffix(path))]


def list_volumes(folder: str | Path) -> list[str]:
    """Return the paths of the visible files of ``folder`` whose suffix is that of a volume, sorted.

    Raises:
        InputError: the folder is missing or holds no volume.
    """
    check_is_folder(Path(folder))
    files = [file for file in Path(folder).iterdir() if file.name[0] != "."]
    volumes = sorted(file for file in files if file.name.lower().endswith(VOLUME_SUFFIXES))
    if not volumes:
        raise InputError(f"{folder}: no volumes there, expected files ending in {', '.join(VOLUME_SUFFIXES)}")
    return [str(path) for path in volumes]


def read_volume(path: Path) -> Volume:
    """Read a 3-D volume from NIfTI (nibabel) or NRRD/MHA (SimpleITK).

    Raises:
        InputError: the file is missing, empty, truncated or of another kind; the volume is not 3-D, has an empty
            axis, claims more voxels than its file can hold, holds NaN or infinite voxels, or its affine is singular.
    """
    read = _read_nifti if _is_nifti(path) else _read_itk
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise InputError(f"{path}: the file is empty, expected a volume")
    return checked_volume(*read(path), name=str(path))


def checked_volume(array: np.ndarray, affine: np.ndarray, name: str) -> Volume:
    """Return ``array`` [X, Y, Z] of real numbers and its ``affine`` [4, 4] as a volume called ``name``.

    Raises:
        InputError: the array is not 3-D, has an empty axis, holds a value that is not a finite real number or is too
            large for float32, or the affine is singular.
    """
    _check_axes(name, array.shape, array.dtype)
    affine = _checked_affine(name, affine)
    with np.errstate(all="ignore"):  # values that float32 cannot hold become infinite and are reported as such
        array = np.asarray(array, dtype=np.float32)
    nonfinite_count = array.size - int(np.count_nonzero(np.isfinite(array)))
    if nonfinite_count:
        raise InputError(
            f"{name}: {nonfinite_count} of {array.size} voxels are NaN or infinite, expected finite values"
        )
    low, high = float(array.min()), float(array.max())
    if max(abs(low), abs(high)) > LARGEST_INTENSITY:
        raise InputError(f"{name}: voxels from {low:.3g} to {high:.3g}, expected at most {LARGEST_INTENSITY:.0g}")
    return Volume(array, affine, name)


def voxel_millilitres(affine: np.ndarray) -> float:
    """Return the volume of a voxel, in ml, of a grid with this ``affine`` [4, 4] to millimetres."""
    return abs(float(np.linalg.det(affine[:3, :3]))) / 1000


def check_same_grid(reference_path: Path, reference: Volume, path: Path, volume: Volume) -> None:
    """Check that a volume lies on the grid of a reference: equal shapes, positions equal to 1 % of a voxel's edge.

    Args:
        reference_path: of the reference, for messages.
        reference: the volume whose grid is expected.
        path: of the volume, for messages.
        volume: the volume to check.

    Raises:
        InputError: it lies on another grid.
    """
    shape = reference.array.shape
    if volume.array.shape != shape:
        raise InputError(
            f"{path}: shape {volume.array.shape}, expected {shape} as in {reference_path}: the two must lie on the "
            "same grid"
        )
    corners = np.array([[i, j, k, 1] for i in (0, 1) for j in (0, 1) for k in (0, 1)]) * [*shape, 1]
    offset = np.abs(corners @ (reference.affine - volume.affine).T).max()
    edge = np.linalg.norm(reference.affine[:3, :3], axis=0).min()
    if offset > 0.01 * edge:
        raise InputError(
            f"{path}: its affine places voxels up to {offset:.3g} mm from those of {reference_path}: the two must lie "
            "on the same grid"
        )


def write_volume(
    path: Path,
    array: np.ndarray,
    reference: Path | Volume,
    compress: bool = True,
    extension: nib.nifti1.Nifti1Extension | None = None,
    description: str = "",
) -> None:
    """Write a volume; the file appears under its name only when it is complete.

    Args:
        path: file to write, whose suffix is one of :data:`VOLUME_SUFFIXES`.
        array: voxels [X, Y, Z] on the grid of ``reference``; their dtype is that of the file.
        reference: volume or its file, whose affine is taken over, and between NIfTI files also the codes of sform and
            qform, see :func:`nifti_image`.
        compress: whether NRRD and MHA are compressed; NIfTI is as its suffix says.
        extension: the only one of a NIfTI header.
        description: for the header of NIfTI (descrip, see :func:`nifti_image`) or NRRD (content); not for MHA.

    Raises:
        InputError: the suffix is unknown or the folder cannot be written.
    """
    suffix = volume_suffix(path).lower()
    if suffix in NIFTI_SUFFIXES:
        image = nifti_image(array, reference, extension, description)
        write_atomically(path, lambda temporary: nib.save(image, temporary), suffix)
    else:
        itk_image = _itk_like(array, reference)
        if description:
            itk_image.SetMetaData("NRRD_content", description)

        def write(temporary: Path) -> None:
            try:
                sitk.WriteImage(itk_image, str(temporary), compress)
                check_itk_file(temporary)  # ITK does not notice a full disk
            except RuntimeError as error:
                raise OSError(itk_reason(error)) from error
            except InputError as error:
                raise OSError("the written file is not complete, is the disk full?") from error

        write_atomically(path, write, suffix)


def _read_itk(path: Path) -> tuple[np.ndarray, np.ndarray]:
    reader = open_itk(path)
    _check_shape(path, reader.GetSize(), np.dtype(np.uint8))
    try:
        image = reader.Execute()
    except (RuntimeError, MemoryError) as error:
        raise InputError(
            f"{path}: cannot be read, the file is truncated or damaged or its axes are singular ({itk_reason(error)})"
        ) from error
    return sitk.GetArrayFromImage(image).T.astype(np.float32), itk_affine(image)  # [X, Y, Z]


def _read_nifti(path: Path) -> tuple[np.ndarray, np.ndarray]:
    image = _open_nifti(path)
    _check_shape(path, image.shape, image.get_data_dtype())
    try:
        _check_bytes(path)
        with np.errstate(all="ignore"):  # values that float32 cannot hold become infinite and are reported as such
            array = np.asarray(image.dataobj, dtype=np.float32)
    except MemoryError as error:
        raise _too_large(path, image.shape) from error
    except Exception as error:  # zlib, gzip and nibabel each have exceptions of their own for a damaged file
        raise InputError(f"{path}: the voxels cannot be read, the file is truncated or damaged ({error})") from error
    return array, image.affine


def _check_bytes(path: Path) -> None:
    """Check what nibabel does not: where the voxels start, and the checksum at the end of a compressed file."""
    is_compressed = path.name.lower().endswith(".gz")
    with (gzip.open if is_compressed else open)(path, "rb") as file:
        header = file.read(NIFTI2_VOXELS)
        while is_compressed and file.read(1 << 20):
            pass
    byte_order = "<" if header[0] else ">"  # the header begins with its own size, 348 or 540, as four bytes
    if header[4:8] == b"n+2\0":
        header_end, (start,) = NIFTI2_VOXELS, struct.unpack_from(f"{byte_order}q", header, 168)
    else:
        header_end, (start,) = NIFTI1_VOXELS, struct.unpack_from(f"{byte_order}f", header, 108)
        if header[344:348] != b"n+1\0":
            raise ValueError("the header is one of a pair of files, expected header and voxels in one file")
    if start < header_end:
        raise ValueError(f"the voxels would start at byte {start:.0f}, within the header")


def _open_nifti(path: Path) -> nib.Nifti1Image:
    try:
        image: Any = nib.load(path)
    except Exception as error:
        raise InputError(f"{path}: not a readable NIfTI file ({error})") from error
    if not isinstance(image, nib.Nifti1Image):  # Nifti2Image is a Nifti1Image
        raise InputError(f"{path}: {type(image).__name__}, expected NIfTI-1 or NIfTI-2")
    return image


def _check_axes(name: str, shape: tuple[int, ...], dtype: np.dtype) -> None:
    if len(shape) != 3:
        raise InputError(f"{name}: {len(shape)}-D with shape {tuple(shape)}, expected one 3-D volume")
    if min(shape) < 1:
        raise InputError(f"{name}: shape {tuple(shape)} has an empty axis, expected at least one voxel along each")
    if dtype.fields is not None or dtype.kind not in "biuf":
        raise InputError(f"{name}: voxels of type {dtype}, expected one real number each")


def _check_shape(path: Path, shape: tuple[int, ...], dtype: np.dtype) -> None:
    _check_axes(str(path), shape, dtype)
    voxels = math.prod(int(n) for n in shape)
    fits_file = voxels * dtype.itemsize <= path.stat().st_size * GZIP_BEST_RATIO
    if not fits_file or voxels * PEAK_BYTES > psutil.virtual_memory().total:
        raise _too_large(path, shape)


def _too_large(path: Path, shape: tuple[int, ...]) -> InputError:
    return InputError(
        f"{path}: the header claims {' x '.join(map(str, shape))} voxels, more than this file or this machine's "
        "memory can hold; the header is damaged"
    )


def _checked_affine(name: str, affine: np.ndarray) -> np.ndarray:
    affine = np.asarray(affine, dtype=np.float64)
    if affine.shape != (4, 4):
        raise InputError(f"{name}: an affine of shape {affine.shape}, expected [4, 4]")
    with np.errstate(all="ignore"):
        edges = np.linalg.norm(affine[:3, :3], axis=0)  # millimetres
    if (
        not (np.isfinite(affine).all() and np.isfinite(edges).all())
        or (edges <= 0).any()
        or abs(np.linalg.det(affine[:3, :3] / edges)) < 1e-6
    ):
        raise InputError(f"{name}: the affine is singular, expected three independent voxel axes: {affine.tolist()}")
    return affine


def _is_nifti(path: Path) -> bool:
    return volume_suffix(path).lower() in NIFTI_SUFFIXES


def nifti_image(
    array: np.ndarray,
    reference: Path | Volume,
    extension: nib.nifti1.Nifti1Extension | None = None,
    description: str = "",
) -> nib.Nifti1Image:
    """Return ``array`` [X, Y, Z] as a NIfTI image on the grid of ``reference``.

    From a NIfTI file it takes over affine, sform, qform and their codes, but no extension of the header, which may hold
    data of the patient. ``extension`` is the only one of the image. ``description`` becomes its descrip, which holds 79
    bytes; the rest is left out.
    """
    if isinstance(reference, Volume) or not _is_nifti(reference):
        image = nib.Nifti1Image(array, _affine_of(reference))
        image.set_qform(image.affine, code="scanner")
        image.set_sform(image.affine, code="scanner")
    else:
        source = _open_nifti(reference)
        header = source.header.copy()  # with sform, qform and their codes
        header.extensions.clear()
        header.set_data_dtype(array.dtype)
        header.set_slope_inter(1, 0)
        header["cal_min"] = header["cal_max"] = 0
        image = type(source)(array, source.affine, header)
    if description:
        image.header["descrip"] = description.encode("ascii", "replace")[:LONGEST_DESCRIPTION]
    if extension is not None:
        image.header.extensions.append(extension)
    return image


def _itk_like(array: np.ndarray, reference: Path | Volume) -> sitk.Image:
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.T))
    affine = LPS_TO_RAS @ _affine_of(reference)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    image.SetOrigin(affine[:3, 3].tolist())
    image.SetSpacing(spacing.tolist())
    image.SetDirection((affine[:3, :3] / spacing).ravel().tolist())
    return image


def _affine_of(reference: Path | Volume) -> np.ndarray:
    if isinstance(reference, Volume):
        return reference.affine
    return _open_nifti(reference).affine if _is_nifti(reference) else itk_affine(open_itk(reference))
