"""Volumes: reading with the checks that unknown files need, writing on the grid of another volume."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import nibabel as nib
import numpy as np

from sdseg_monai.errors import InputError
from sdseg_monai.io.arrays import chunks, make_array
from sdseg_monai.io.files import check_is_folder, write_atomically
from sdseg_monai.io.formats.geometry import Geometry, agree, offset_mm, volume_shape
from sdseg_monai.io.formats.itk import write_itk
from sdseg_monai.io.formats.layouts import Layout, read_voxels
from sdseg_monai.io.formats.metaimage import read_metaimage_header
from sdseg_monai.io.formats.nifti import NiftiFile, nifti_like, open_nifti, read_nifti_voxels, write_nifti
from sdseg_monai.io.formats.nrrd import read_nrrd_header
from sdseg_monai.io.formats.streams import BEST_RATIO
from sdseg_monai.io.memory import check_memory
from sdseg_monai.io.warnings import ImageWarning

NIFTI_SUFFIXES = (".nii.gz", ".nii")
ITK_SUFFIXES = (".nrrd", ".mha")
VOLUME_SUFFIXES = NIFTI_SUFFIXES + ITK_SUFFIXES
SLICER_SUFFIX = ".seg.nrrd"  # of 3D Slicer's segmentations
# kinds of volumes that are not read, and what to do
OTHER_SUFFIXES = {
    (".mhd", ".nhdr", ".hdr", ".img"): "is one of a pair of files, header and voxels: save the image as one file, in "
    "Python by SimpleITK.WriteImage(SimpleITK.ReadImage(NAME), 'image.nii.gz')",
    (".nii.bz2", ".nii.xz", ".nii.zst", ".nii.zip"): "is compressed in a way that is not read: decompress it",
    (".mgz", ".mgh", ".mnc", ".par", ".rec"): "is a volume of a kind that is not read: convert it to NIfTI, in Python "
    "by nibabel",
}
SMALLEST_EDGE = 1e-6  # mm, of a voxel; the positions of smaller ones cannot be compared in double precision
LARGEST_INTENSITY = 1e30  # float32 cannot scale larger ones
HEADER_READERS: dict[str, Callable[[Path], Layout]] = {".nrrd": read_nrrd_header, ".mha": read_metaimage_header}
LONGEST_DESCRIPTION = 79  # bytes of NIfTI's descrip, without the final zero


@dataclass(frozen=True)
class Volume:
    """A volume in memory.

    Attributes:
        array: voxels, [X, Y, Z], float32; of a large volume it may lie in a file, see :mod:`sdseg_monai.io.arrays`.
        affine: from voxel to RAS+ millimetres, [4, 4], float64.
        name: in messages; also the key of the start noise where that is drawn per slice.
        itk_affine: where ITK and its viewers place the file's voxels, [4, 4]; None where that is ``affine`` too.
        warnings: about its place, of kind ``geometry``.
    """

    array: np.ndarray
    affine: np.ndarray
    name: str = "volume"
    itk_affine: np.ndarray | None = None
    warnings: tuple[ImageWarning, ...] = ()

    @property
    def geometry(self) -> Geometry:
        """Where its voxels lie."""
        return Geometry(self.affine, self.itk_affine, self.warnings)

    @cached_property
    def range(self) -> tuple[float, float]:
        """Lowest and highest value of a voxel."""
        ranges = [(float(part.min()), float(part.max())) for part in chunks(self.array)]
        lows, highs = zip(*ranges, strict=True)
        return min(lows), max(highs)


def volume_suffix(path: Path) -> str:
    """Return the suffix of a volume file, ``.nii.gz`` and ``.seg.nrrd`` as one.

    Raises:
        InputError: the file has another suffix than :data:`VOLUME_SUFFIXES`.
    """
    for suffix in (SLICER_SUFFIX, *VOLUME_SUFFIXES):
        if path.name.lower().endswith(suffix):
            return path.name[-len(suffix) :]
    for suffixes, remedy in OTHER_SUFFIXES.items():
        if path.name.lower().endswith(suffixes):
            raise InputError(f"{path}: {remedy}, expected {', '.join(VOLUME_SUFFIXES)}")
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


def read_volume(path: Path, *, on_disk: bool = False) -> Volume:
    """Read a 3-D volume from NIfTI, NRRD or MHA; axes of 1 after the third are left out.

    No more of a compressed file is decompressed than its header says that there are voxels.

    Args:
        path: of the file.
        on_disk: whether a large array may lie in a temporary file, see :func:`~sdseg_monai.io.arrays.make_array`.

    Raises:
        InputError: the file is missing, empty, truncated or of another kind; a field of its header is doubtful; the
            volume is not 3-D, has an empty axis, claims more voxels than its file or the available memory can hold,
            holds NaN or infinite voxels, or its affine is singular.
    """
    is_nifti = _is_nifti(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise InputError(f"{path}: the file is empty, expected a volume")
    header: NiftiFile | Layout = open_nifti(path) if is_nifti else _header_reader(path)(path)
    _check_axes(str(path), header.shape, header.dtype)
    _check_size(path, header)
    if not on_disk or header.encoding in ("ascii", "hex"):
        check_memory(header.shape, str(path))
    try:
        array = make_array(header.shape, np.float32, on_disk=on_disk)
        _fill(array, path, header)
    except MemoryError as error:
        raise InputError(f"{path}: {_by(header.shape)} voxels, more than fit the memory") from error
    return checked_volume(array, header.geometry, str(path))


def _fill(array: np.ndarray, path: Path, header: NiftiFile | Layout) -> None:
    if isinstance(header, NiftiFile):
        read_nifti_voxels(header, array)
    else:
        read_voxels(path, header, array)


def checked_volume(array: np.ndarray, place: np.ndarray | Geometry, name: str) -> Volume:
    """Return ``array`` [X, Y, Z] of real numbers as a volume called ``name``.

    Args:
        array: the voxels; axes of 1 after the third are left out.
        place: their affine to RAS+ millimetres, [4, 4], or all that a file says of it.
        name: of the volume.

    Raises:
        InputError: the array is not 3-D, has an empty axis, holds a value that is not a finite real number or is too
            large for float32, or the affine is singular.
    """
    geometry = place if isinstance(place, Geometry) else Geometry(place)
    array = array.reshape(volume_shape(array.shape), order="A")
    _check_axes(name, array.shape, array.dtype)
    affine = _checked_affine(name, geometry.affine)
    with np.errstate(all="ignore"):  # values that float32 cannot hold become infinite and are reported as such
        array = np.asarray(array, dtype=np.float32)
    volume = Volume(array, affine, name, geometry.itk_affine, geometry.warnings)
    nonfinite_count = array.size - sum(int(np.count_nonzero(np.isfinite(part))) for part in chunks(array))
    if nonfinite_count:
        raise InputError(
            f"{name}: {nonfinite_count} of {array.size} voxels are NaN or infinite, expected finite values: give them "
            "the value of the background first"
        )
    low, high = volume.range
    if max(abs(low), abs(high)) > LARGEST_INTENSITY:
        raise InputError(f"{name}: voxels from {low:.3g} to {high:.3g}, expected at most {LARGEST_INTENSITY:.0g}")
    return volume


def voxel_millilitres(affine: np.ndarray) -> float:
    """Return the volume of a voxel, in ml, of a grid with this ``affine`` [4, 4] to millimetres."""
    return abs(float(np.linalg.det(affine[:3, :3]))) / 1000


def check_same_grid(reference_path: Path, reference: Volume, path: Path, volume: Volume) -> None:
    """Check that a volume lies on the grid of a reference: equal shapes, positions equal to 1 % of a voxel's edge.

    Programs may place one file differently, see :class:`~sdseg_monai.io.formats.geometry.Geometry`, and a mask may have
    been drawn in either place. So it suffices that the two agree in one of them.

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
    places, reference_places = volume.geometry, reference.geometry
    if not agree(shape, reference_places.affine, places.affine) and not agree(
        shape, reference_places.viewer_affine, places.viewer_affine
    ):
        raise InputError(
            f"{path}: its affine places voxels up to {offset_mm(shape, reference.affine, volume.affine):.3g} mm from "
            f"those of {reference_path}: the two must lie on the same grid"
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
        description: for the header of NIfTI (descrip, see :func:`nifti_image`), NRRD (content) or MHA (Comment).

    Raises:
        InputError: the suffix is unknown or the folder cannot be written.
    """
    suffix = volume_suffix(path).lower()
    if suffix in NIFTI_SUFFIXES:
        source = open_nifti(reference) if isinstance(reference, Path) and _is_nifti(reference) else None
        image = nifti_image(array, reference, extension, description)
        write_atomically(path, lambda temporary: write_nifti(temporary, image, source), suffix)
        return
    affine = read_geometry(reference).viewer_affine

    def write(temporary: Path) -> None:
        write_itk(temporary, array, affine, compress, description)
        try:
            header = _header_reader(temporary)(temporary)
            read_voxels(temporary, header, make_array(header.shape, np.float32))  # ITK does not notice a full disk
        except InputError as error:
            raise OSError("the written file is not complete, is the disk full?") from error

    write_atomically(path, write, suffix)


def read_geometry(reference: Path | Volume) -> Geometry:
    """Return where the voxels of a volume or its file lie; no voxel is read.

    Raises:
        InputError: the header of the file cannot be used.
    """
    if isinstance(reference, Volume):
        return reference.geometry
    if _is_nifti(reference):
        return open_nifti(reference).geometry
    return _header_reader(reference)(reference).geometry


def _header_reader(path: Path) -> Callable[[Path], Layout]:
    return HEADER_READERS[path.suffix.lower()]


def _check_axes(name: str, shape: tuple[int, ...], dtype: np.dtype) -> None:
    if len(shape) != 3:
        remedy = "save each of its volumes as a file" if len(shape) > 3 else "save it with a third axis of length 1"
        raise InputError(f"{name}: {len(shape)}-D with shape {tuple(shape)}, expected one 3-D volume: {remedy}")
    if min(shape) < 1:
        raise InputError(f"{name}: shape {tuple(shape)} has an empty axis, expected at least one voxel along each")
    if dtype.fields is not None or dtype.kind not in "biuf":
        raise InputError(f"{name}: voxels of type {dtype}, expected one real number each")


def _check_size(path: Path, header: NiftiFile | Layout) -> None:
    """Check that the file is large enough for its voxels, even if these are all zero."""
    voxels = math.prod(header.shape)
    if header.encoding in ("ascii", "hex"):
        fits = voxels <= path.stat().st_size  # at least one character each
    else:
        fits = voxels * header.dtype.itemsize <= path.stat().st_size * BEST_RATIO[header.encoding]
    if not fits:
        raise InputError(
            f"{path}: the header claims {_by(header.shape)} voxels, more than this file can hold: it is truncated or "
            "damaged"
        )


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _checked_affine(name: str, affine: np.ndarray) -> np.ndarray:
    affine = np.asarray(affine, dtype=np.float64)
    if affine.shape != (4, 4):
        raise InputError(f"{name}: an affine of shape {affine.shape}, expected [4, 4]")
    with np.errstate(all="ignore"):
        edges = np.linalg.norm(affine[:3, :3], axis=0)  # millimetres
    if (
        not (np.isfinite(affine).all() and np.isfinite(edges).all())
        or (edges < SMALLEST_EDGE).any()
        or abs(np.linalg.det(affine[:3, :3] / edges)) < 1e-6
    ):
        raise InputError(
            f"{name}: the affine is singular, expected three independent voxel axes, each {SMALLEST_EDGE:g} mm or "
            f"more: {affine.tolist()}"
        )
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

    From a NIfTI file it takes over sform, qform, their codes and the unit, so that each viewer lays it on the image,
    but nothing else of the header. ``extension`` is the only one of the image. ``description`` becomes its descrip,
    which holds 79 bytes; the rest is left out.
    """
    if isinstance(reference, Path) and _is_nifti(reference):
        image = nifti_like(array, open_nifti(reference))
    else:
        image = nib.Nifti1Image(array, read_geometry(reference).affine)
        image.set_qform(image.affine, code="scanner")
        image.set_sform(image.affine, code="scanner")
    if description:
        image.header["descrip"] = description.encode("ascii", "replace")[:LONGEST_DESCRIPTION]
    if extension is not None:
        image.header.extensions.append(extension)
    return image
