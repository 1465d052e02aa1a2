"""Bundles as one zip file, as MONAI's model zoo hands them out."""

from __future__ import annotations

import os
import shutil
import tempfile
import zipfile
from functools import cache
from pathlib import Path, PurePath

from sdseg_monai.errors import InputError

_unpacked: list[tempfile.TemporaryDirectory] = []  # they go with the process


def unpack_bundle(path: Path) -> Path:
    """Unpack a zip file into a temporary folder, which lasts as long as the process; returns the bundle's folder.

    Raises:
        InputError: it is no zip file, a name in it leads elsewhere, or it does not fit on the disk.
    """
    status = path.stat()
    return _unpack(path.resolve(), status.st_mtime_ns, status.st_size)


@cache
def _unpack(path: Path, modified: int, size: int) -> Path:
    folder = tempfile.TemporaryDirectory(prefix="sdseg_bundle_")
    try:
        with zipfile.ZipFile(path) as archive:
            needed = sum(member.file_size for member in archive.infolist())
            if needed > shutil.disk_usage(folder.name).free:
                raise InputError(f"{path}: would take {needed / 1e9:.1f} GB, more than is free in {folder.name}")
            for name in archive.namelist():
                _check_member(name)
            archive.extractall(folder.name)
    except Exception as error:  # each way to compress has exceptions of its own
        folder.cleanup()
        raise error if isinstance(error, InputError) else InputError(f"{path}: not a readable zip ({error})") from error
    _unpacked.append(folder)
    root = Path(folder.name)
    inside = [child for child in root.iterdir() if child.is_dir() and child.name != "__MACOSX"]
    return inside[0] if len(inside) == 1 and not (root / "configs").is_dir() else root


def _check_member(name: str) -> None:
    """Refuse a name that leads out of the folder; zipfile would put it somewhere else inside, and makes no links."""
    path = PurePath(os.path.normpath(name))
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"unsafe path in it: {name}")
