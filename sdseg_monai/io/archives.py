"""Bundles in one zip file, the form in which MONAI's model zoo distributes them."""

from __future__ import annotations

import os
import shutil
import tempfile
import zipfile
from functools import cache
from pathlib import Path, PurePath

from sdseg_monai.errors import InputError
from sdseg_monai.io.temporary import owned_prefix, remove_abandoned

PREFIX = "sdseg_bundle_"
_folders: list[tempfile.TemporaryDirectory] = []  # removed when the process ends


def unpack_bundle(path: Path) -> Path:
    """Unpack a zip file into a temporary folder, which is removed when the process ends; return the bundle's folder.

    Raises:
        InputError: it is not a zip file, a name in it leads out of the folder, or it does not fit on the disk.
    """
    status = path.stat()
    return _unpack(path.resolve(), status.st_mtime_ns, status.st_size)


@cache
def _unpack(path: Path, mtime_ns: int, size: int) -> Path:
    remove_abandoned(Path(tempfile.gettempdir()), PREFIX)
    folder = tempfile.TemporaryDirectory(prefix=owned_prefix(PREFIX))
    try:
        with zipfile.ZipFile(path) as archive:
            size_bytes = sum(member.file_size for member in archive.infolist())
            if size_bytes > shutil.disk_usage(folder.name).free:
                raise InputError(f"{path}: would take {size_bytes / 1e9:.1f} GB, more than is free in {folder.name}")
            for name in archive.namelist():
                _check_member(name)
            archive.extractall(folder.name)
    except Exception as error:  # each method of compression has exceptions of its own
        folder.cleanup()
        raise error if isinstance(error, InputError) else InputError(f"{path}: not a readable zip ({error})") from error
    _folders.append(folder)
    root = Path(folder.name)
    children = [child for child in root.iterdir() if child.is_dir() and child.name != "__MACOSX"]
    return children[0] if len(children) == 1 and not (root / "configs").is_dir() else root


def _check_member(name: str) -> None:
    """Refuse a name that leads out of the folder; zipfile would write it inside under another name.

    Links need no check, since zipfile makes none.
    """
    path = PurePath(os.path.normpath(name))
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"unsafe path in it: {name}")
