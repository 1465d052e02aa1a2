"""Where images come from: files, DICOM series, lists of files, and what a program has in memory."""

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
from sdseg_monai.io.pictures import image_stem, is_picture, list_images
from sdseg_monai.io.volumes import VOLUME_SUFFIXES, Volume, checked_volume, volume_suffix
from sdseg_monai.io.warnings import ImageWarning

Source = Path | Series | Volume  # one image
ImageLike = str | Source | SpatialImage | tuple[np.ndarray, np.ndarray]
DATALIST_SUFFIXES = (".csv", ".json")
SPLITS = ("training", "validation", "test")
DICOM_SUFFIXES = (".dcm", ".ima")


def open_source(image: ImageLike, series: str | None = None) -> Source:
    """Return one image, however it is given.

    Args:
        image: a volume's or picture's file; a DICOM file or a folder of them; a nibabel image; voxels [X, Y, Z] and
            their affine [4, 4] to RAS+ millimetres.
        series: SeriesInstanceUID, where there are several.

    Raises:
        InputError: it is none of these, there are several series, or what lies in memory is no volume.
    """
    if isinstance(image, SpatialImage):
        return checked_volume(*_voxels(image), name=str(image.get_filename() or "nibabel image"))
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
        raise ArgumentError(f"{path}: is no DICOM, of which series={series!r} would choose a series")
    if not path.is_file():  # a pipe or a device would be waited for
        raise InputError(f"{path}: is no ordinary file, expected a volume or a picture")
    if not is_picture(path):
        volume_suffix(path)  # checks
    return path


def list_sources(
    path: Path, series: str | None = None, dataset_dir: Path | None = None, split: str | None = None
) -> list[Source]:
    """Return the images of a folder (volumes, else pictures, else one DICOM series), a datalist or a single file.

    Args:
        path: a folder; a JSON datalist in MONAI's form, a CSV file with a column ``image``; or what
            :func:`open_source` takes.
        series: SeriesInstanceUID, where a folder has several.
        dataset_dir: folder that a datalist's paths are relative to, by default its own.
        split: list of a JSON datalist.

    Raises:
        InputError: there is no image, several series, or two images whose masks would have one name.
    """
    listed = path.suffix.lower() in DATALIST_SUFFIXES and path.is_file()
    if not listed and (dataset_dir is not None or split is not None):
        suffixes = ", ".join(DATALIST_SUFFIXES)
        raise ArgumentError(f"{path}: dataset_dir=FOLDER and split=NAME are for a datalist ({suffixes})")
    if listed:
        return _read_datalist(path, path.parent if dataset_dir is None else dataset_dir, split)
    if not path.is_dir() or series is not None:
        return [open_source(path, series)]
    visible = [file for file in path.iterdir() if file.name[0] != "."]
    has_volumes = any(file.name.lower().endswith(VOLUME_SUFFIXES) for file in visible)
    has_pictures = any(is_picture(file) for file in visible)
    has_slices = any(_has_unknown_name(file) and file.is_file() and is_dicom(file) for file in visible)
    if has_volumes and has_slices:
        raise ArgumentError(
            f"{path}: holds DICOM and volume files, expected one kind: choose with series=UID, or give a single file"
        )
    if not has_volumes and (has_slices or (not has_pictures and has_dicom(path))):
        return [choose_series(path)]  # whatever preview pictures lie beside the slices
    return [Path(image) for image in list_images(path)]


def load_source(source: Source) -> Path | Volume:
    """Return what :class:`~sdseg_monai.transforms.LoadVolumed` reads: the file, or the volume.

    Raises:
        InputError: the slices of a series are no volume.
    """
    return read_series(source) if isinstance(source, Series) else source


def source_name(source: Source) -> str:
    """Return the name of an image: its file's, or the UID of a series."""
    if isinstance(source, Path):
        return source.name
    return source.uid if isinstance(source, Series) else source.name


def short_name(source: Source) -> str:
    """Return what messages call an image: its file's name, or what the scanner called a series, with its number."""
    if isinstance(source, Series):
        number = "" if source.number is None else f" (series {source.number})"
        return f"{source.description or source.files[0].parent.name}{number}"
    return Path(source_name(source)).name


def source_warnings(source: Source) -> Sequence[ImageWarning]:
    """Return what is known of an image before its voxels are read: of a series, what of its folder was left out."""
    return source.warnings if isinstance(source, Series) else ()


def source_stem(source: Source) -> str:
    """Return the name that its mask has, without a suffix."""
    return image_stem(source) if isinstance(source, Path) else source_name(source)


def source_files(source: Source) -> Sequence[Path]:
    """Return the files that an image was read from."""
    if isinstance(source, Path):
        return [source]
    return source.files if isinstance(source, Series) else [Path(source.name)]  # a nibabel image knows its file


def is_photograph(source: Source) -> bool:
    """Tell whether an image is a picture, in three colours and without a scale."""
    return isinstance(source, Path) and is_picture(source)


def hash_source(source: Source) -> str:
    """Return the SHA-256 of an image's file, or of the hashes of its files, or of its voxels and affine."""
    if isinstance(source, Path):
        return hash_file(source)
    if isinstance(source, Volume):
        return hashlib.sha256(source.array.tobytes() + source.affine.tobytes()).hexdigest()
    return hashlib.sha256("".join(map(hash_file, source.files)).encode()).hexdigest()


def _names_dicom(path: Path) -> bool:
    """Tell whether a file is to be read as DICOM, by its name or, where that says nothing, by its content."""
    named = path.name.lower().endswith(DICOM_SUFFIXES)
    return named or (_has_unknown_name(path) and path.is_file() and is_dicom(path))


def _has_unknown_name(path: Path) -> bool:
    return not (path.name.lower().endswith(VOLUME_SUFFIXES) or is_picture(path))


def _copy_array(voxels: Any, affine: Any) -> Volume:
    try:
        arrays = np.array(voxels, order="C"), np.array(affine, dtype=np.float64)  # the caller's own stay as they are
    except Exception as error:  # numpy's of ragged lists, a tensor's that needs a gradient, memory's
        raise InputError(f"voxels and affine that are no arrays ({error}), expected [X, Y, Z] and [4, 4]") from error
    return checked_volume(*arrays, name="array")


def _voxels(image: Any) -> tuple[np.ndarray, np.ndarray]:
    try:
        return np.array(image.dataobj), image.affine  # a copy: the image may be a view that torch cannot take
    except Exception as error:  # a proxy reads its file here, which fails in as many ways as there are formats
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
                f"{path}: {image} and {stems[source_stem(source)]} have the same name, as their masks would"
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
    items = [item if isinstance(item, dict) else {"image": item} for item in lists[name]]  # a Decathlon test list
    if not all(isinstance(item["image"], str) for item in items):
        raise TypeError("an image that is no path")
    return [str(dataset_dir / item["image"]) if item["image"] else "" for item in items]
