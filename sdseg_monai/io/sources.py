"""Where images come from: files, DICOM series, datalists, and arrays or nibabel images in memory."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.spatialimages import SpatialImage

from sdseg_monai.errors import ArgumentError, InputError
from sdseg_monai.io.dicom import Series, choose_series, has_dicom, is_dicom, read_series
from sdseg_monai.io.files import check_exists, hash_file
from sdseg_monai.io.nifti import image_geometry
from sdseg_monai.io.pictures import image_stem, is_picture, list_images
from sdseg_monai.io.volumes import VOLUME_SUFFIXES, Volume, checked_volume, volume_suffix
from sdseg_monai.io.warnings import ImageWarning

Source = Path | Series | Volume  # one image
ImageLike = str | Source | SpatialImage | tuple[np.ndarray, np.ndarray]
DATALIST_SUFFIXES = (".csv", ".json")
SPLITS = ("training", "validation", "test")
DICOM_SUFFIXES = (".dcm", ".ima")


def open_source(image: ImageLike, series: str | None = None) -> Source:
    """Return one image, whatever form it has: its file, its DICOM series or its voxels; no file's voxels are read yet.

    Args:
        image: the file of a volume or picture; a DICOM file or a folder of them; a nibabel image; voxels [X, Y, Z] and
            their affine [4, 4] to RAS+ millimetres; or what this function returns.
        series: SeriesInstanceUID, where a folder has several series.

    Raises:
        InputError: it is none of these, there are several series, or the image in memory is not a volume, see
            :func:`~sdseg_monai.io.volumes.checked_volume`.

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
    if isinstance(image, Series | Volume):
        return image
    if not isinstance(image, str | Path):
        raise InputError(f"{type(image).__name__}: expected a path, a nibabel image, or (voxels, affine)")
    path = Path(image)
    check_exists(path)
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

    Args:
        path: a folder; a JSON datalist in MONAI's form; a CSV file with a column ``image``; or a path that
            :func:`open_source` takes.
        series: SeriesInstanceUID, where a folder has several series.
        dataset_dir: folder to which a datalist's paths are relative, by default its own.
        split: which list of a JSON datalist, such as ``test``.

    Raises:
        InputError: there is no image, there are several series, or two images whose masks would have the same name.

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
        return _read_datalist(path, path.parent if dataset_dir is None else dataset_dir, split)
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
    return [Path(image) for image in list_images(path)]


def load_source(source: Source) -> Path | Volume:
    """Return what :class:`~sdseg_monai.transforms.LoadVolumed` reads: the file, or the volume; a series is read here.

    Raises:
        InputError: the slices of a series cannot be read or do not form a volume.
    """
    return read_series(source) if isinstance(source, Series) else source


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
    return image_stem(source) if isinstance(source, Path) else source_name(source)


def source_files(source: Source) -> Sequence[Path]:
    """Return the files that an image is read from."""
    if isinstance(source, Path):
        return [source]
    return source.files if isinstance(source, Series) else [Path(source.name)]  # the name of a nibabel image's file


def is_photograph(source: Source) -> bool:
    """Tell whether an image is a picture: three channels, and no known size of its pixels."""
    return isinstance(source, Path) and is_picture(source)


def hash_source(source: Source) -> str:
    """Return the SHA-256 of an image's file, or of the hashes of its files, or of its voxels and affine."""
    if isinstance(source, Path):
        return hash_file(source)
    if isinstance(source, Volume):
        return hashlib.sha256(source.array.tobytes() + source.affine.tobytes()).hexdigest()
    return hashlib.sha256("".join(map(hash_file, source.files)).encode()).hexdigest()


def _names_dicom(path: Path) -> bool:
    """Tell whether a file is to be read as DICOM, by its suffix or, where that is unknown, by its content."""
    has_dicom_suffix = path.name.lower().endswith(DICOM_SUFFIXES)
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


def _read_datalist(path: Path, dataset_dir: Path, split: str | None) -> list[Source]:
    try:
        if path.suffix.lower() == ".csv":
            images = [str(dataset_dir / image) if image else "" for image in _csv_images(path, split)]
        else:
            images = _json_images(path, split, dataset_dir)
    except InputError:
        raise
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError, csv.Error) as error:
        raise InputError(
            f"{path}: not a datalist ({error!r:.200}), expected JSON lists of {{image}} or CSV with a column image"
        ) from error
    if not images:
        raise InputError(f"{path}: names no image, expected at least one")
    if not all(images):
        raise InputError(f"{path}: an image without a name, expected a path in each row")
    sources = [open_source(image) for image in images]
    stems: dict[str, str] = {}
    for source, image in zip(sources, images, strict=True):
        if stems.setdefault(source_stem(source), image) != image or images.count(image) > 1:
            raise InputError(
                f"{path}: {image} and {stems[source_stem(source)]} have the same name, so their masks would be one file"
            )
    return sources


def _csv_images(path: Path, split: str | None) -> list[str]:
    if split is not None:
        raise ArgumentError(f"{path}: split={split!r}: a CSV file has no splits, expected a JSON datalist")
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    if rows and "image" not in rows[0]:
        raise InputError(f"{path}: columns {', '.join(map(str, rows[0]))}, expected one called image")
    return [row["image"] or "" for row in rows]


def _json_images(path: Path, split: str | None, dataset_dir: Path) -> list[str]:
    content = json.loads(path.read_text("utf-8-sig"))
    lists = {name: items for name, items in content.items() if isinstance(items, list) and name in (*SPLITS, split)}
    if split is None and len(lists) > 1:
        raise ArgumentError(f"{path}: has the lists {', '.join(lists)}: choose one with split=NAME")
    name = next(iter(lists), "") if split is None else split
    if name not in lists:
        raise InputError(f"{path}: no list {name!r}, expected one of {', '.join(lists or SPLITS)}")
    # a test list of the Medical Segmentation Decathlon holds bare paths
    items = [item if isinstance(item, dict) else {"image": item} for item in lists[name]]
    if not all(isinstance(item["image"], str) for item in items):
        raise TypeError("an image that is not a path")
    return [str(dataset_dir / item["image"]) if item["image"] else "" for item in items]
