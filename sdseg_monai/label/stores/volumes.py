"""MONAI Label's datastore of a folder of volumes: new files are checked, and written completely or not at all."""

from __future__ import annotations

import filecmp
import json
import logging
import re
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from monailabel.datastore.local import DataModel, ImageLabelModel, LocalDatastore, LocalDatastoreModel
from monailabel.interfaces.exception import LabelNotFoundException

from sdseg_monai.errors import InputError
from sdseg_monai.io.files import write_atomically
from sdseg_monai.io.label_maps import check_label_map
from sdseg_monai.io.temporary import scratch_folder
from sdseg_monai.io.volumes import (
    VOLUME_SUFFIXES,
    Volume,
    read_volume,
    volume_stem,
    volume_suffix,
    write_volume,
)
from sdseg_monai.io.voxel_order import on_same_grid

logger = logging.getLogger(__name__)

BINARY_SUFFIX = ".bin"  # in which OHIF sends a label: only its voxels, uint8, the first axis fastest


class VolumeDatastore(LocalDatastore):
    """MONAI Label's folder: images in it, labels in ``labels/TAG``, and information on both in ``datastore_v2.json``.

    Every label passes :meth:`save_label`, so a training sees only labels that this method accepts. The arguments are
    those of MONAI Label's ``LocalDatastore``.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._mutex = threading.RLock()  # requests and the watcher of the folder run in several threads
        super().__init__(*args, **kwargs)
        if hasattr(self, "_handler"):
            self._handler.on_moved = self._on_any_event  # a file that is written atomically appears by renaming

    def add_image(self, image_id: str | None, image_filename: str, image_info: dict[str, Any] | None) -> str:
        """Copy a volume into the folder, under ``image_id`` or else its file's name, and return that name.

        Raises:
            InputError: the name is not plain or is that of another image, or the file cannot be read or written.
        """
        path = Path(image_filename)
        image_id = checked_name("image", image_id or volume_stem(path))
        with _errors_with_name(path, f"image {image_id}"):
            read_volume(path)
        with self._mutex:
            old_path = self.get_image_uri(image_id)
            if not old_path:
                self._put_image(image_id, path, _fields(image_info))
            elif not filecmp.cmp(old_path, path, shallow=False):
                raise InputError(f"image {image_id}: another image has that name, choose another name")
        return image_id

    def save_label(
        self,
        image_id: str,
        label_filename: str,
        label_tag: str,
        label_info: dict[str, Any] | None,
        label_id: str = "",
    ) -> str:
        """Copy a label of an image into ``labels/TAG``, where it replaces the previous label; return the image's id.

        Args:
            image_id: of the labelled image.
            label_filename: volume on the image's grid, or ``.bin``, only its voxels (uint8, first axis fastest).
            label_tag: ``final``, ``original`` or another plain name.
            label_info: the viewer's information on the label.
            label_id: not used; MONAI Label's DICOM datastore has it.

        Raises:
            InputError: the image is unknown, the tag is not a plain name, or the label cannot be read, lies on another
                grid, holds other values than whole numbers from 0, or cannot be written. The previous label then stays.
        """
        checked_name("tag", label_tag)
        image_path = self.get_image_uri(image_id)
        if not image_path:
            raise InputError(f"{image_id!r}: there is no such image here, so it cannot have a label")
        image = read_volume(Path(image_path))
        name = f"label of {image_id}"
        file = Path(label_filename)
        with _as_volume(file, Path(image_path), image, name) as path, _errors_with_name(path, name):
            label = read_volume(path)
            on_same_grid(Path(image_path), image, path, label)  # the training brings the voxels into the image's order
            check_label_map(path, label.array)
            self._store_label(image_id, path, label_tag, _fields(label_info))
        return image_id

    def modality_of(self, image_id: str) -> str:
        """Return the modality of an image, which a volume file does not say: empty."""
        return ""

    def make_seg(self, image_id: str, mask: Path, label_info: object, not_trusted: str = "") -> Path:
        """Refuse to make a DICOM SEG, since volumes have no slices to which it could refer.

        Raises:
            InputError: always.
        """
        raise InputError("images here are volumes, not DICOM series: a mask of one cannot become a DICOM SEG")

    def update_image_info(self, image_id: str, info: dict[str, Any]) -> None:
        """Add to the information on an image.

        Raises:
            InputError: the image is unknown, or the folder cannot be written.
        """
        with self._changing():
            if image_id not in self._datastore.objects:
                raise InputError(f"{image_id!r}: there is no such image here")
            self._datastore.objects[image_id].image.info.update(info)
            self._update_datastore_file(lock=False)

    def update_label_info(self, label_id: str, label_tag: str, info: dict[str, Any]) -> None:
        """Add to the information on a label.

        Raises:
            InputError: the label is unknown, or the folder cannot be written.
        """
        with self._changing():
            label = self._datastore.label(label_id, label_tag)
            if label is None:
                raise InputError(f"{label_id!r}: there is no such label of tag {label_tag!r} here")
            label.info.update(info)
            self._update_datastore_file(lock=False)

    def remove_label(self, label_id: str, label_tag: str) -> None:
        """Remove a label's file and, without waiting for the folder's watcher, the information on it.

        Raises:
            LabelNotFoundException: there is none.
        """
        if not self._datastore.label(label_id, label_tag):
            raise LabelNotFoundException(f"{label_id!r}: there is no such label of tag {label_tag!r} here")
        super().remove_label(label_id, label_tag)
        self.refresh()

    def remove_image(self, image_id: str) -> None:
        """Remove an image's file and labels and, without waiting for the folder's watcher, the information on them."""
        super().remove_image(image_id)
        self.refresh()

    def get_dataset_archive(self, limit_cases: int | None) -> str:
        """Return a ZIP file of the labelled images and their labels.

        Raises:
            InputError: no image has a final label.
        """
        if not self.datalist():
            raise InputError("no image has a final label yet, so an archive would be empty")
        return super().get_dataset_archive(limit_cases)

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Lock out other threads, and the processes of scorings, batches and trainings.

        MONAI Label's own lock is held for single steps of a refresh, not from reading to writing.
        """
        with self._mutex, FileLock(Path(self._datastore_path) / ".changes.lock"):
            yield

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Be :meth:`_exclusive`, and read the file first, since another process may have written it."""
        path = Path(self._datastore_config_path)
        with self._exclusive(), FileLock(self._lock_file):
            if path.is_file():  # its time of modification is not compared: two changes may have the same time
                model = LocalDatastoreModel.model_validate_json(path.read_text())
                model.base_path = self._datastore_path
                self._datastore = model
            yield

    def _put_image(self, image_id: str, path: Path, info: dict[str, Any]) -> None:
        suffix = volume_suffix(path)
        with self._changing():
            objects = self._datastore.objects
            old_model = objects.get(image_id)
            old_data = old_model and old_model.image
            data = self._replace(path, self._datastore.image_path(), image_id, suffix, old_data, info)
            objects[image_id] = ImageLabelModel(image=data, labels=old_model.labels if old_model else {})
            self._update_datastore_file(lock=False)

    def _store_label(self, image_id: str, path: Path, tag: str, info: dict[str, Any]) -> None:
        suffix = volume_suffix(path)
        with self._changing():
            labels = self._datastore.objects[image_id].labels
            labels[tag] = self._replace(path, self._datastore.label_path(tag), image_id, suffix, labels.get(tag), info)
            self._update_datastore_file(lock=False)

    def _replace(
        self, source: Path, folder: str, name: str, suffix: str, old_data: DataModel | None, info: dict[str, Any]
    ) -> DataModel:
        """Copy ``source`` to ``folder/name.suffix`` and remove the old file where it has another suffix.

        MONAI Label would otherwise find the old file at the next refresh and list it again.
        """
        target = Path(folder) / self._filename(name, suffix)
        write_atomically(target, lambda temporary: shutil.copyfile(source, temporary))
        if old_data and old_data.ext != suffix:
            target.with_name(self._filename(name, old_data.ext)).unlink(missing_ok=True)
        return DataModel(ext=suffix, info={**info, "ts": int(time.time()), "name": target.name})

    def _to_id(self, file: str) -> tuple[str, str]:
        return volume_stem(Path(file)), volume_suffix(Path(file))

    def _list_files(self, path: str, patterns: object) -> dict[str, str]:
        names = sorted(file.name for file in Path(path).iterdir())
        return {name: name for name in names if name.lower().endswith(VOLUME_SUFFIXES) and name[0] != "."}

    def _reconcile_datastore(self) -> None:
        with self._exclusive():
            super()._reconcile_datastore()

    def _update_datastore_file(self, lock: bool = True) -> None:
        path = Path(self._datastore_config_path)
        with self._mutex, FileLock(self._lock_file) if lock else nullcontext():
            text = json.dumps(self.json(), indent=2, default=str)
            write_atomically(path, lambda temporary: temporary.write_text(text))
            self._config_ts = path.stat().st_mtime


def checked_name(kind: str, name: str) -> str:
    """Return ``name``, which becomes part of a path.

    Args:
        kind: of the name in messages, such as ``image``.
        name: to check.

    Raises:
        InputError: it is not a plain name.
    """
    if not re.fullmatch(r"[\w-][\w.-]*", name):
        raise InputError(f"{kind} {name!r}: expected a plain name of letters, digits, '_', '-' and '.'")
    return name


def _fields(info: object) -> dict[str, Any]:
    if not isinstance(info, Mapping | None):
        raise InputError(f"params: {type(info).__name__}, expected an object with names and values")
    return dict(info or {})


@contextmanager
def _errors_with_name(path: Path, name: str) -> Iterator[None]:
    """Put ``name`` in place of ``path`` in errors, since the client does not know the temporary file."""
    try:
        yield
    except InputError as error:
        raise InputError(str(error).replace(str(path), name)) from error


@contextmanager
def _as_volume(path: Path, image_path: Path, image: Volume, name: str) -> Iterator[Path]:
    """Yield a volume file of the label: ``path`` itself, or a temporary one where ``path`` holds only voxels."""
    if path.suffix != BINARY_SUFFIX:
        yield path
        return
    voxels = np.fromfile(path, dtype=np.uint8)
    shape = image.array.shape
    if voxels.size != image.array.size:
        size = " x ".join(map(str, shape))
        raise InputError(f"{name}: {voxels.size} bytes, expected {image.array.size}, one for each of its {size} voxels")
    with scratch_folder() as folder:
        volume = folder / "label.nii.gz"
        write_volume(volume, voxels.reshape(shape, order="F"), image_path)
        yield volume
