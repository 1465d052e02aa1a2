"""Where images come from: files, DICOM series, datalists, and arrays or nibabel images in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.spatialimages import SpatialImage

from sdseg_monai.errors import ArgumentError, InputError, printable
from sdseg_monai.io.datalists import DATALIST_SUFFIXES, read_datalist
from sdseg_monai.io.dicom import Series, choose_series, has_dicom, is_dicom, read_series
from sdseg_monai.io.dicom.instances import SUFFIXES
from sdseg_monai.io.files import check_exists, hash_file
from sdseg_monai.io.formats.nifti import image_geometry
from sdseg_monai.io.pictures import image_stem, is_picture, list_images
from sdseg_monai.io.volumes import (
    OTHER_SUFFIXES,
    VOLUME_SUFFIXES,
    Volume,
    checked_volume,
    read_volume,
    volume_stem,
    volume_suffix,
)
from sdseg_monai.io.warnings import ImageWarning


@dataclass(frozen=True)
class UnusableImage:
    """An image of a datalist that cannot be opened; the others are segmented, and a run records it as failed.

    Attributes:
        name: of its file.
        reason: why it cannot be opened, in one line with its path.
    """

    name: str
    reason: str


Source = Path | Series | Volume | UnusableImage  # one image
ImageLike = str | Source | SpatialImage | tuple[np.ndarray, np.ndarray]

FIRST_CHANNEL = "_0000"  # nnU-Net's end of the name of an image's first or only channel
# fmt: off
OTHER_IMAGES = (
    *(suffix for suffixes in OTHER_SUFFIXES for suffix in suffixes), ".raw", ".zraw", ".img.gz", ".hdr.gz", ".nrrd.gz",
    ".mha.gz", ".vtk", ".vti", ".gipl", ".gipl.gz", ".npy", ".npz", ".h5", ".hdf5", ".mat", ".zip", ".tar", ".tar.gz",
    ".tgz", ".gz", ".bz2", ".xz", ".7z",
)
# fmt: on
NAMES_SHOWN = 5  # of the files that were left out for one reason


def open_source(image: ImageLike, series: str | None = None) -> Source:
    """Return one image, whatever form it has: its file, its DICOM series or its voxels; no file's voxels are read yet.

    Args:
        image: the file of a volume or picture; a DICOM file or a folder of them; a nibabel image; voxels [X, Y, Z] and
            their affine [4, 4] to RAS+ millimetres; or what this function returns.
        series: SeriesInstanceUID, where a folder has several series.

    Raises:
        InputError: it is none of these, there are several series, or the image in memory is not a volume, see
            :func:`~sdseg_monai.io.volumes.checked_volume`; or it is an :class:`UnusableImage`.

    Example:
        >>> import numpy as np
        >>> from sdseg_monai.io.sources import open_source
        >>> volume = open_source((np.zeros((35, 51, 36), np.float32), np.eye(4)))
        >>> volume.array.shape
        (35, 51, 36)
    """
    if isinstance(image, SpatialImage):
        name = str(image.get_filename() or "nibabel image")
        array, affine = _voxels(image)
        return checked_volume(array, image_geometry(image, affine), name)
    if isinstance(image, tuple):
        if len(image) != 2:
            raise InputError(f"a tuple of {len(image)}, expected voxels [X, Y, Z] and their affine [4, 4]")
        return _copy_array(*image)
    if isinstance(image, UnusableImage):
        raise InputError(image.reason)
    if isinstance(image, Series | Volume):
        return image
    if not isinstance(image, str | Path):
        raise InputError(f"{type(image).__name__}: expected a path, a nibabel image, or (voxels, affine)")
    path = Path(image)
    try:
        check_exists(path)
    except InputError as error:
        raise InputError(f"{error}{_hint(path)}") from error
    if path.is_dir() or _names_dicom(path):
        return choose_series(path, series)
    if series is not None:
        raise ArgumentError(f"{path}: is not DICOM, but series={series!r} chooses a DICOM series")
    if not path.is_file():  # reading a pipe or a device might never end
        raise InputError(f"{path}: is no ordinary file, expected a volume or a picture")
    if not is_picture(path):
        volume_suffix(path)  # raises for other files
    return path


def list_sources(
    path: Path, series: str | None = None, dataset_dir: Path | None = None, split: str | None = None
) -> list[Source]:
    """Return the images of a folder (volumes, else pictures, else one DICOM series), a datalist or a single file.

    An image of a datalist that cannot be opened is an :class:`UnusableImage`. :func:`left_out_of` says what of a folder
    is not among the images.

    Args:
        path: a folder; a JSON datalist in MONAI's form; a CSV file with a column ``image``; or a path that
            :func:`open_source` takes.
        series: SeriesInstanceUID, where a folder has several series.
        dataset_dir: folder to which a datalist's paths are relative, by default its own.
        split: which list of a JSON datalist, such as ``test``.

    Raises:
        InputError: there is no image, none that a datalist names can be opened, there are several series, or two images
            whose masks would have the same name.

    Example:
        >>> from pathlib import Path
        >>> from sdseg_monai.io.sources import list_sources
        >>> list_sources(Path("datalist.json"), split="test", dataset_dir=Path("data"))  # doctest: +SKIP
        [PosixPath('data/images/case_1.nii.gz')]
    """
    is_datalist = path.suffix.lower() in DATALIST_SUFFIXES and path.is_file()
    if not is_datalist and (dataset_dir is not None or split is not None):
        suffixes = ", ".join(DATALIST_SUFFIXES)
        raise ArgumentError(f"{path}: dataset_dir=FOLDER and split=NAME are for a datalist ({suffixes})")
    if is_datalist:
        return _open_all(path, read_datalist(path, path.parent if dataset_dir is None else dataset_dir, split))
    if not path.is_dir() or series is not None:
        return [open_source(path, series)]
    files = [file for file in path.iterdir() if file.name[0] != "."]
    has_volumes = any(file.name.lower().endswith(VOLUME_SUFFIXES) for file in files)
    has_pictures = any(is_picture(file) for file in files)
    has_slices = any(_has_unknown_name(file) and file.is_file() and is_dicom(file) for file in files)
    if has_volumes and has_slices:
        raise ArgumentError(
            f"{path}: holds DICOM and volume files, expected one kind: choose with series=UID, or give a single file"
        )
    if not has_volumes and (has_slices or (not has_pictures and has_dicom(path))):
        return [choose_series(path)]  # preview pictures beside the slices do not count
    try:
        return [Path(image) for image in list_images(path)]
    except InputError as error:
        if has_volumes or has_pictures:
            raise
        raise InputError("; ".join([str(error), *left_out_lines(left_out_of(path, []))])) from error


def left_out_of(folder: Path, sources: Sequence[Source]) -> dict[str, str]:
    """Return the visible files and folders in a folder of images that are not among its images, each with the reason.

    A DICOM series has warnings about such files itself.

    Args:
        folder: given to :func:`list_sources`.
        sources: what that returned; empty where it is no folder.
    """
    if not folder.is_dir() or not all(isinstance(source, Path) for source in sources):
        return {}
    kind = "volumes" if any(not is_photograph(source) for source in sources) else "pictures"
    reasons = {}
    for path in sorted(folder.iterdir()):
        if path.name[0] != "." and path not in sources:
            reasons[printable(path.name)] = _reason(path, kind)
    return reasons


def left_out_lines(reasons: Mapping[str, str]) -> list[str]:
    """Return one line for each reason for which files were left out, see :func:`left_out_of`; of many, some names."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        by_reason.setdefault(reason, []).append(name)
    lines = []
    for reason, names in by_reason.items():
        more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
        lines.append(f"left out: {', '.join(names[:NAMES_SHOWN])}{more}: {reason}")
    return lines


def load_source(source: Source) -> Path | Volume:
    """Read a volume; return what :class:`~sdseg_monai.transforms.LoadVolumed` takes: this, or a photograph's file.

    A large volume lies in a temporary file, see :func:`~sdseg_monai.io.arrays.make_array`.

    Raises:
        InputError: the file cannot be used, the slices of a series do not form a volume, or the image is unusable.
    """
    if isinstance(source, UnusableImage):
        raise InputError(source.reason)
    if isinstance(source, Series):
        return read_series(source, on_disk=True)
    return source if isinstance(source, Volume) or is_photograph(source) else read_volume(source, on_disk=True)


def source_name(source: Source) -> str:
    """Return the name of an image: the name of its file, or the SeriesInstanceUID."""
    if isinstance(source, Path):
        return source.name
    return source.uid if isinstance(source, Series) else source.name


def short_name(source: Source) -> str:
    """Return the name of an image in messages: that of its file, or the SeriesDescription with the SeriesNumber."""
    if isinstance(source, Series):
        number = "" if source.number is None else f" (series {source.number})"
        return f"{source.description or source.files[0].parent.name}{number}"
    return Path(source_name(source)).name


def source_warnings(source: Source) -> Sequence[ImageWarning]:
    """Return the warnings about an image that are known before its voxels are read: those of a series."""
    return source.warnings if isinstance(source, Series) else ()


def source_stem(source: Source) -> str:
    """Return the name of an image's mask without a suffix."""
    if isinstance(source, UnusableImage):
        with suppress(InputError):  # it has another suffix than images have
            return image_stem(Path(source.name))
    return image_stem(source) if isinstance(source, Path) else source_name(source)


def source_files(source: Source) -> Sequence[Path]:
    """Return the files that an image is read from."""
    if isinstance(source, Path):
        return [source]
    if isinstance(source, UnusableImage):
        return []
    return source.files if isinstance(source, Series) else [Path(source.name)]  # the name of a nibabel image's file


def is_photograph(source: Source) -> bool:
    """Tell whether an image is a picture: three channels, and no known size of its pixels."""
    return isinstance(source, Path) and is_picture(source)


def hash_source(source: Source) -> str:
    """Return the SHA-256 of an image's file, or of the hashes of its files, or of its voxels and affine.

    Raises:
        InputError: the image is unusable.
    """
    if isinstance(source, UnusableImage):
        raise InputError(source.reason)
    if isinstance(source, Path):
        return hash_file(source)
    if isinstance(source, Volume):
        return hashlib.sha256(source.array.tobytes() + source.affine.tobytes()).hexdigest()
    return hashlib.sha256("".join(map(hash_file, source.files)).encode()).hexdigest()


def _names_dicom(path: Path) -> bool:
    """Tell whether a file is to be read as DICOM, by its suffix or, where that is unknown, by its content."""
    has_dicom_suffix = path.name.lower().endswith(SUFFIXES)
    return has_dicom_suffix or (_has_unknown_name(path) and path.is_file() and is_dicom(path))


def _has_unknown_name(path: Path) -> bool:
    return not (path.name.lower().endswith(VOLUME_SUFFIXES) or is_picture(path))


def _copy_array(voxels: Any, affine: Any) -> Volume:
    try:
        # copies: the caller may change its own
        arrays = np.array(voxels, order="C"), np.array(affine, dtype=np.float64)
    except Exception as error:  # ragged lists, a tensor that requires a gradient, too little memory
        raise InputError(f"voxels and affine that are no arrays ({error}), expected [X, Y, Z] and [4, 4]") from error
    return checked_volume(*arrays, name="array")


def _voxels(image: Any) -> tuple[np.ndarray, np.ndarray]:
    try:
        return np.array(image.dataobj), image.affine  # a copy: the image may be a view that torch cannot take
    except Exception as error:  # nibabel's proxy reads the file here, and each format has exceptions of its own
        raise InputError(f"{image.get_filename()}: the voxels cannot be read ({error})") from error


def _open_all(datalist: Path, images: Sequence[str]) -> list[Source]:
    """Open the images of a datalist, given by their paths.

    Raises:
        InputError: none can be opened, or two of them have the same name.
    """
    sources: list[Source] = []
    for image in images:
        try:
            sources.append(open_source(image))
        except InputError as error:
            sources.append(UnusableImage(printable(Path(image).name), str(error)))
    first = sources[0]
    if all(isinstance(source, UnusableImage) for source in sources) and isinstance(first, UnusableImage):
        others = f" (and {len(sources) - 1} more images of {datalist} cannot be opened)" if len(sources) > 1 else ""
        raise InputError(f"{first.reason}{others}")
    stems: dict[str, str] = {}
    for source, image in zip(sources, images, strict=True):
        if stems.setdefault(source_stem(source), image) != image or images.count(image) > 1:
            raise InputError(
                f"{datalist}: {image} and {stems[source_stem(source)]} have the same name, so their masks would be one "
                "file"
            )
    return sources


def _hint(path: Path) -> str:
    """Return what may be meant by the name of a file that is missing, empty where nothing is known."""
    if path.name.lower().endswith(VOLUME_SUFFIXES):
        numbered = path.with_name(f"{volume_stem(path)}{FIRST_CHANNEL}{volume_suffix(path)}")
        with suppress(OSError):  # the name is too long
            if numbered.is_file():
                return f"; {numbered.name} is there (nnU-Net ends names with the channel): give that name"
    if "\\" in path.name:
        return "; its name has backslashes, expected / between folders"
    return ""


def _reason(path: Path, kind: str) -> str:
    """Return why something in a folder of ``kind``, volumes or pictures, was left out."""
    name = path.name.lower()
    if path.is_dir():
        return "folders, only the files of this folder itself are segmented"
    if not path.exists():
        return "links that lead nowhere"
    if name.endswith(SUFFIXES):
        return f"DICOM files beside {kind}: put them into a folder of their own"
    if name.endswith(OTHER_IMAGES):
        return f"images of a kind that is not read, expected {', '.join(VOLUME_SUFFIXES)}"
    if is_picture(path):
        return "pictures beside volumes"
    return "other files"
