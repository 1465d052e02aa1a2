"""Volumes: reading with every check that a stranger's file needs, writing on the grid of another."""

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
LARGEST_INTENSITY = 1e30  # beyond, float32 cannot scale them
PEAK_BYTES = 18  # a voxel, measured while a volume is segmented
GZIP_BEST_RATIO = 1032  # deflate cannot shrink more than this
NIFTI1_VOXELS, NIFTI2_VOXELS = 352, 544  # first bytes of the voxels: header and extension flag lie before


@dataclass(frozen=True)
class Volume:
    """A volume in memory.

    Attributes:
        array: voxels, [X, Y, Z], float32.
        affine: from voxel to RAS+ millimetres, [4, 4], float64.
        name: what messages call it; also the key of start noise that is drawn per slice.
    """

    array: np.ndarray
    affine: np.ndarray
    name: str = "volume"


def volume_suffix(path: Path) -> str:
    """Return the suffix of a volume file, ``.nii.gz`` as one.

    Raises:
        InputError: the suffix is none that is read and written here.
    """
    for suffix in VOLUME_SUFFIXES:
        if path.name.lower().endswith(suffix):
            return path.name[-len(suffix) :]
    raise InputError(f"{path}: unknown kind of file, expected {', '.join(VOLUME_SUFFIXES)}")


def volume_stem(path: Path) -> str:
    """Return the file name without its volume suffix."""
    return path.name[: -len(volume_suffix(path))]


def list_volumes(folder: str | Path) -> list[str]:
    """Return the visible files of ``folder`` whose names end as a volume's, sorted.

    Raises:
        InputError: the folder is missing or holds no volume.
    """
    check_is_folder(Path(folder))
    names = [p for p in Path(folder).iterdir() if p.name.lower().endswith(VOLUME_SUFFIXES) and p.name[0] != "."]
    if not names:
        raise InputError(f"{folder}: no volumes there, expected files ending in {', '.join(VOLUME_SUFFIXES)}")
    return [str(path) for path in sorted(names)]


def read_volume(path: Path) -> Volume:
    """Read a 3-D volume from NIfTI (nibabel) or NRRD/MHA (SimpleITK).

    Raises:
        InputError: the file is missing, empty, truncated or of another kind; the volume is not 3-D, has an empty
            axis, claims more voxels than its file can hold, holds NaN or infinite voxels, or its affine is singular.
    """
    nifti = _is_nifti(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise InputError(f"{path}: the file is empty, expected a volume")
    return checked_volume(*(_read_nifti if nifti else _read_itk)(path), name=str(path))


def checked_volume(array: np.ndarray, affine: np.ndarray, name: str) -> Volume:
    """Return ``array`` [X, Y, Z] of real numbers and its ``affine`` [4, 4] as a volume called ``name``.

    Raises:
        InputError: the array is not 3-D, has an empty axis, holds other than finite real numbers that float32 can
            scale, or the affine is singular.
    """
    _check_axes(name, array.shape, array.dtype)
    affine = _checked_affine(name, affine)
    with np.errstate(all="ignore"):  # what float32 cannot hold becomes infinite and is reported as such
        array = np.asarray(array, dtype=np.float32)
    bad = array.size - int(np.count_nonzero(np.isfinite(array)))
    if bad:
        raise InputError(f"{name}: {bad} of {array.size} voxels are NaN or infinite, expected finite values")
    low, high = float(array.min()), float(array.max())
    if max(abs(low), abs(high)) > LARGEST_INTENSITY:
        raise InputError(f"{name}: voxels from {low:.3g} to {high:.3g}, expected at most {LARGEST_INTENSITY:.0g}")
    return Volume(array, affine, name)


def voxel_millilitres(affine: np.ndarray) -> float:
    """Return the volume of a voxel in ml, of a grid with this ``affine`` [4, 4] to millimetres."""
    return abs(float(np.linalg.det(affine[:3, :3]))) / 1000


def check_same_grid(path: Path, volume: Volume, other_path: Path, other: Volume) -> None:
    """Raise :class:`InputError` unless two volumes lie on one grid (positions equal to 1 % of a voxel's edge)."""
    if volume.array.shape != other.array.shape:
        raise InputError(
            f"{other_path}: shape {other.array.shape}, expected {volume.array.shape} as in {path}: the two must "
            "lie on the same grid"
        )
    corners = np.array([[i, j, k, 1] for i in (0, 1) for j in (0, 1) for k in (0, 1)]) * [*volume.array.shape, 1]
    offset = np.abs(corners @ (volume.affine - other.affine).T).max()
    edge = np.linalg.norm(volume.affine[:3, :3], axis=0).min()
    if offset > 0.01 * edge:
        raise InputError(
            f"{other_path}: its affine places voxels up to {offset:.3g} mm from those of {path}: the two must lie on "
            "the same grid"
        )


def write_volume(
    path: Path,
    array: np.ndarray,
    reference: Path | Volume,
    compress: bool = True,
    extension: nib.nifti1.Nifti1Extension | None = None,
) -> None:
    """Write ``array`` [X, Y, Z] on the grid of ``reference``: affine, and of a NIfTI file sform and qform codes.

    NRRD and MHA are compressed or not; NIfTI as its suffix says, and with this ``extension`` of the header, without
    those of the reference. The file appears under its name only when it is complete.

    Raises:
        InputError: the suffix is unknown or the folder cannot be written.
    """
    suffix = volume_suffix(path).lower()
    if suffix in NIFTI_SUFFIXES:
        image = nifti_image(array, reference, extension)
        write_atomically(path, lambda temporary: nib.save(image, temporary), suffix)
    else:
        itk_image = _itk_like(array, reference)

        def write(temporary: Path) -> None:
            try:
                sitk.WriteImage(itk_image, str(temporary), compress)
                check_itk_file(temporary)  # ITK does not notice a full disk
            except RuntimeError as error:
                raise OSError(itk_reason(error)) from error
            except InputError as error:
                raise OSError("what was written is not whole, is the disk full?") from error

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
        _check_stored(path)
        with np.errstate(all="ignore"):  # what float32 cannot hold becomes infinite and is reported as such
            array = np.asarray(image.dataobj, dtype=np.float32)
    except MemoryError as error:
        raise _too_large(path, image.shape) from error
    except Exception as error:  # zlib, gzip and nibabel each have exceptions of their own for a damaged file
        raise InputError(f"{path}: the voxels cannot be read, the file is truncated or damaged ({error})") from error
    return array, image.affine


def _check_stored(path: Path) -> None:
    """Check what nibabel does not look at: where the voxels start, and the checksum that ends a compressed file."""
    compressed = path.name.lower().endswith(".gz")
    with (gzip.open if compressed else open)(path, "rb") as file:
        header = file.read(NIFTI2_VOXELS)
        while compressed and file.read(1 << 20):
            pass
    order = "<" if header[0] else ">"  # the header begins with its own size, 348 or 540, as four bytes
    if header[4:8] == b"n+2\0":
        first, (start,) = NIFTI2_VOXELS, struct.unpack_from(f"{order}q", header, 168)
    else:
        first, (start,) = NIFTI1_VOXELS, struct.unpack_from(f"{order}f", header, 108)
        if header[344:348] != b"n+1\0":
            raise ValueError("the header is one of a pair of files, expected header and voxels in one")
    if start < first:
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
    array: np.ndarray, reference: Path | Volume, extension: nib.nifti1.Nifti1Extension | None = None
) -> nib.Nifti1Image:
    """Return ``array`` [X, Y, Z] as a NIfTI image on the grid of ``reference``.

    Of a NIfTI file it takes over affine, sform, qform and their codes, but no extension: those are about the image, the
    patient's data among it. ``extension`` is the image's only one.
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
