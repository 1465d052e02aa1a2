"""NIfTI files: read by nibabel from a stream of bounded length, and written so that each viewer lays them on the image.

The standard has two places for the position of an image, sform and qform, and programs choose between them, and guess
where there is none, in different ways. nibabel's choice is the one here; ITK's is asked too.

Source: https://nifti.nimh.nih.gov/pub/dist/src/niftilib/nifti1.h
"""

from __future__ import annotations

import gzip
import io
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.arrayproxy import ArrayProxy
from nibabel.fileholders import FileHolder
from nibabel.openers import ImageOpener
from nibabel.spatialimages import SpatialImage

from sdseg_monai.errors import InputError
from sdseg_monai.io.arrays import CHUNK_BYTES, chunks, release
from sdseg_monai.io.formats.content import content_name
from sdseg_monai.io.formats.geometry import Geometry, agree, disagreement, scaled, volume_shape
from sdseg_monai.io.formats.itk import itk_nifti_affine
from sdseg_monai.io.formats.streams import GZIP_MAGIC, Encoding, check_end, open_stream, read_bytes
from sdseg_monai.io.warnings import ImageWarning

HEADER_BYTES = 544  # of NIfTI-2, with the flag of its extensions; those of NIfTI-1 are fewer
LARGEST_START = 1 << 26  # bytes of header extensions; those of AFNI and dcmstack have a few megabytes
SLACK = 1 << 16  # bytes after the voxels that are passed over, such as padding
MILLIMETRES = {1: 1e3, 2: 1.0, 3: 1e-3}  # by the code of the unit; others say nothing, and are taken for mm
SILENT = logging.Logger("silent")  # nibabel would write what it mends to stderr, without the file's name
SILENT.addHandler(logging.NullHandler())
# what places an image for any viewer
PLACE_FIELDS = (
    *("pixdim", "xyzt_units", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d"),
    *("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z"),
)


@dataclass(frozen=True)
class NiftiFile:
    """A NIfTI file of which the header was read.

    Attributes:
        path: of the file.
        encoding: ``gzip`` or ``raw``, by its content and not its name.
        image_class: nibabel's class of NIfTI-1 or NIfTI-2.
        header: nibabel's, with the extensions; negative lengths of voxels are positive in it.
        stored_header: the header as it is in the file.
    """

    path: Path
    encoding: Encoding
    image_class: type[nib.Nifti1Image]
    header: nib.Nifti1Header
    stored_header: nib.Nifti1Header

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of voxels along each axis, without axes of 1 after the third."""
        return volume_shape(self.header.get_data_shape())

    @property
    def dtype(self) -> np.dtype:
        """Type of the stored voxels."""
        return self.header.get_data_dtype()

    @property
    def geometry(self) -> Geometry:
        """Where the voxels lie, in millimetres whatever the unit of the file is."""
        return nifti_geometry(self.stored_header, self.header.get_best_affine(), self.shape)


def open_nifti(path: Path) -> NiftiFile:
    """Read and check the header of a NIfTI file; no voxel is read.

    Raises:
        InputError: the file is not NIfTI, or is one of a pair of files, or its header is damaged.
    """
    try:
        with path.open("rb") as file:
            encoding: Encoding = "gzip" if file.read(len(GZIP_MAGIC)) == GZIP_MAGIC else "raw"
        with open_stream(path, encoding) as stream:
            head = stream.read(HEADER_BYTES)
            image_class = _find_class(head)
            header_class = image_class.header_class
            stored_header = header_class(head[: header_class.template_dtype.itemsize], check=False)
            start = float(stored_header["vox_offset"])
            if start < header_class.single_vox_offset:
                raise ValueError(f"the voxels would start at byte {start:.0f}, within the header")
            if not start <= LARGEST_START:
                raise ValueError(f"the voxels would start at byte {start:.0f}, expected {LARGEST_START} at most")
            head += stream.read(max(0, int(start) - len(head)))
        header = header_class.from_fileobj(io.BytesIO(head[: int(start)]), check=False)
        header.check_fix(logger=SILENT)  # raises for what cannot be mended
        header.get_best_affine()  # raises for quaternions that are none
        header.get_slope_inter()  # raises for an intercept that is no number
        if np.isinf(stored_header["scl_slope"]):  # nibabel would take it for none; NaN is how nibabel itself wrote none
            raise ValueError("its voxels have an infinite slope (scl_slope)")
        if stored_header["sform_code"] <= 0 and not stored_header["pixdim"][1:4].all():
            raise ValueError("it does not say how large its voxels are (pixdim is 0)")
        if head[flag := header_class.template_dtype.itemsize] and start < flag + 8:
            raise ValueError("it has header extensions, but the voxels would start where these are")
    except Exception as error:  # gzip, zlib and nibabel each have exceptions of their own
        raise InputError(f"{path}: not a readable NIfTI file ({error})") from error
    return NiftiFile(path, encoding, image_class, header, stored_header)


def _find_class(head: bytes) -> type[nib.Nifti1Image]:
    """Return nibabel's class of a file by the words that the standard puts into its header."""
    words = head[344:348], head[4:8]  # of NIfTI-1 and NIfTI-2
    if words[0] == b"n+1\0":
        return nib.Nifti1Image
    if words[1] == b"n+2\0":
        return nib.Nifti2Image
    if words[0] == b"ni1\0" or words[1] == b"ni2\0":
        raise ValueError("the header is one of a pair of files, expected header and voxels in one file")
    reason = content_name(head)
    raise ValueError(f"it is {reason}" if reason else "its header is none of NIfTI's")


def read_nifti_voxels(file: NiftiFile, array: np.ndarray) -> None:
    """Fill ``array`` [X, Y, Z] with the voxels of a file as real values, by its slope and intercept.

    Args:
        file: of three axes, or with further ones of length 1.
        array: float32, in the shape of the file.

    Raises:
        InputError: the file is truncated or damaged, or holds more voxels than its header says.
    """
    slope, intercept = (
        default if value is None else value
        for value, default in zip(file.header.get_slope_inter(), (1.0, 0.0), strict=True)
    )
    try:
        with open_stream(file.path, file.encoding) as stream, np.errstate(all="ignore"):
            read_bytes(stream, file.header.get_data_offset())
            for part in chunks(array):
                content = read_bytes(stream, part.size * file.dtype.itemsize)
                # by nibabel's own arithmetic; what float32 cannot hold becomes infinite, and is reported as such
                stored = ArrayProxy(io.BytesIO(content), (part.shape, file.dtype, 0, slope, intercept), mmap=False)
                part[...] = np.asarray(stored, dtype=np.float32)
            check_end(stream, SLACK)
    except MemoryError:
        raise
    except Exception as error:  # gzip, zlib and nibabel each have exceptions of their own
        raise InputError(
            f"{file.path}: the voxels cannot be read, the file is truncated or damaged ({error})"
        ) from error


def nifti_geometry(header: Any, affine: np.ndarray, shape: tuple[int, ...]) -> Geometry:
    """Return where nibabel and ITK place the voxels of a NIfTI image, with a warning where they do not agree.

    Args:
        header: nibabel's, with the fields as they are in the file, for ITK.
        affine: nibabel's, [4, 4], in the unit of the header.
        shape: of the voxels; only of three axes is ITK asked.
    """
    affine = scaled(np.asarray(affine, dtype=np.float64), MILLIMETRES.get(int(header["xyzt_units"]) & 7, 1.0))
    if len(shape) != 3 or not np.isfinite(affine).all():
        return Geometry(affine)
    itk_affine = itk_nifti_affine(_header_of_place(header)) if _is_ordinary(header) else None
    if itk_affine is not None and agree(shape, affine, itk_affine):
        itk_affine = None
    texts = []
    if header["qform_code"] <= 0 and header["sform_code"] <= 0:
        texts.append("neither sform nor qform in the header: the orientation is a guess, left and right may be swapped")
    if itk_affine is not None:
        texts.append(
            "by sform, qform and pixdim in the header, nibabel (FSL, MONAI) and ITK (Slicer, ITK-SNAP) place the image "
            f"{disagreement(shape, affine, itk_affine)}: check the orientation"
        )
    return Geometry(affine, itk_affine, tuple(ImageWarning("geometry", text) for text in texts))


def image_geometry(image: SpatialImage, affine: np.ndarray) -> Geometry:
    """Return where the voxels of a nibabel image lie, whose ``affine`` [4, 4] is in the unit of its header."""
    is_nifti = isinstance(image, nib.Nifti1Pair) and image.header.get_best_affine().shape == np.shape(affine)
    if not is_nifti or not np.allclose(image.header.get_best_affine(), affine):
        return Geometry(affine)  # such as of an image whose affine was changed: its header follows when it is saved
    return nifti_geometry(image.header, affine, volume_shape(image.shape))


def _is_ordinary(header: Any) -> bool:
    """Tell whether ITK can calculate with the place in a header, without a message of its own to stderr."""
    numbers = np.abs(np.concatenate([np.ravel(header[name]) for name in PLACE_FIELDS]).astype(np.float64))
    return bool(np.isfinite(numbers).all() and (numbers < 1e30).all() and ((numbers > 1e-30) | (numbers == 0)).all())


def _header_of_place(header: Any) -> bytes:
    """Return a file of 2 x 2 x 2 bytes with the fields of ``header`` that place the voxels."""
    place = type(header)(endianness=header.endianness, check=False)
    place.set_data_dtype(np.uint8)
    place.set_data_shape((2, 2, 2))
    for name in PLACE_FIELDS:
        place[name] = header[name]
    place["vox_offset"] = place.single_vox_offset
    place["magic"] = place.single_magic
    return place.binaryblock + bytes(4 + 8)


def nifti_like(array: np.ndarray, file: NiftiFile) -> nib.Nifti1Image:
    """Return ``array`` [X, Y, Z] as an image that each viewer places as it places ``file``.

    It has the file's sform, qform, their codes and its unit, and nothing else of the header: intents, descriptions and
    extensions are the image's own, and may be about the patient.
    """
    header = type(file.header)(endianness=file.header.endianness)
    header.set_data_dtype(array.dtype)
    header.set_data_shape(array.shape)
    for name in PLACE_FIELDS:
        header[name] = file.header[name]
    return file.image_class(array, file.header.get_best_affine(), header)


def write_nifti(path: Path, image: nib.Nifti1Image, reference: NiftiFile | None) -> None:
    """Write an image as one file, compressed where its name ends in ``.gz``.

    Args:
        path: file to write.
        image: to write, such as from :func:`nifti_like`.
        reference: the file whose place it has; nibabel does not write lengths of voxels that are negative, as they are
            in some files, and by which ITK places these.
    """
    if reference is None or np.array_equal(reference.stored_header["pixdim"], image.header["pixdim"]):
        with ImageOpener(str(path), "wb") as file:
            image.to_file_map({"image": FileHolder(fileobj=_ReleasingFile(file, np.asanyarray(image.dataobj)))})
        return
    content = bytearray(image.to_bytes())
    at = 104 if isinstance(image, nib.Nifti2Image) else 76  # by the standard
    pixdim = reference.stored_header["pixdim"].tobytes()
    content[at : at + len(pixdim)] = pixdim
    path.write_bytes(gzip.compress(content, 1, mtime=0) if path.name.lower().endswith(".gz") else content)


class _ReleasingFile(io.BufferedIOBase):
    """A file to which an array is written part by part; the pages of the array leave the memory as they are written."""

    def __init__(self, file: Any, array: np.ndarray) -> None:
        self._file, self._array, self._count = file, array, 0

    def seek(self, position: int, whence: int = 0) -> int:
        return int(self._file.seek(position, whence))

    def tell(self) -> int:
        return int(self._file.tell())

    def write(self, content: Any) -> int:
        self._count += len(content)
        if self._count >= CHUNK_BYTES:
            release(self._array)
            self._count = 0
        return int(self._file.write(content))
