"""Bundles in one zip file, the form in which MONAI's model zoo distributes them."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
import zipfile
from functools import cache
from pathlib import Path, PurePath

from sdseg_monai.errors import InputError
from sdseg_monai.io.temporary import owned_prefix, remove_abandoned

PREFIX = "sdseg_bundle_"
MAX_MEMBERS = 10_000  # the largest bundle here has 70 files
MAX_BYTES = 16 << 30  # unpacked; weights of the largest network here take 1 GB
# Weights hardly shrink in a zip, texts about ten times; only a small bundle of texts may shrink more.
MAX_RATIO = 20
SMALL_BYTES = 64 << 20

_folders: list[tempfile.TemporaryDirectory] = []  # removed when the process ends


def unpack_bundle(path: Path) -> Path:
    """Unpack a zip file into a temporary folder, which is removed when the process ends; return the bundle's folder.

    Raises:
        InputError: it is not a zip file; it has too many files, or files that are too large, for a bundle (more than
            ``MAX_BYTES``, or more than ``SMALL_BYTES`` and ``MAX_RATIO`` times its own size) or for the disk; it is
            encrypted; or a name in it leads out of the folder, appears twice, cannot be shown or is that of a link.
    """
    status = path.stat()
    return _unpack(path.resolve(), status.st_mtime_ns, status.st_size)


@cache
def _unpack(path: Path, mtime_ns: int, size: int) -> Path:
    remove_abandoned(Path(tempfile.gettempdir()), PREFIX)
    folder = tempfile.TemporaryDirectory(prefix=owned_prefix(PREFIX))
    try:
        with zipfile.ZipFile(path) as archive:
            _check_size(path, archive, size, shutil.disk_usage(folder.name).free)
            _check_members(archive)
            archive.extractall(folder.name)  # zipfile stops where a member is larger than it says
    except Exception as error:  # each method of compression has exceptions of its own
        folder.cleanup()
        raise error if isinstance(error, InputError) else InputError(f"{path}: not a readable zip ({error})") from error
    _folders.append(folder)
    root = Path(folder.name)
    children = [child for child in root.iterdir() if child.is_dir() and child.name != "__MACOSX"]
    return children[0] if len(children) == 1 and not (root / "configs").is_dir() else root


def _check_size(path: Path, archive: zipfile.ZipFile, zip_bytes: int, free_bytes: int) -> None:
    members = archive.infolist()
    num_bytes = sum(member.file_size for member in members)
    most = min(MAX_BYTES, max(SMALL_BYTES, MAX_RATIO * zip_bytes))
    if len(members) > MAX_MEMBERS:
        raise InputError(f"{path}: {len(members)} files, expected a bundle, with at most {MAX_MEMBERS}")
    if num_bytes > most:
        raise InputError(
            f"{path}: would unpack {zip_bytes / 1e6:.1f} MB to {num_bytes / 1e6:.0f} MB, expected at most "
            f"{most / 1e6:.0f} MB; if it is a bundle, unpack it and name its folder"
        )
    if num_bytes > free_bytes:
        raise InputError(
            f"{path}: would take {num_bytes / 1e9:.1f} GB, more than is free in the folder for temporary files"
        )


def _check_members(archive: zipfile.ZipFile) -> None:
    """Refuse names that zipfile would change, or that say other things to other programs."""
    names: set[str] = set()
    for member in archive.infolist():
        path = PurePath(os.path.normpath(member.filename))
        if path.is_absolute() or ".." in path.parts:
            raise ValueError(f"unsafe path in it: {member.filename}")
        if not member.filename.isprintable() or "\\" in member.filename or member.filename != member.orig_filename:
            raise ValueError(f"unsafe name in it: {member.filename!a}")
        if stat.S_ISLNK(member.external_attr >> 16):
            raise ValueError(f"a link in it: {member.filename}")
        if member.flag_bits & 1:
            raise ValueError(f"an encrypted file in it: {member.filename}")
        if str(path).casefold() in names:
            raise ValueError(f"two files of one name in it: {member.filename}")
        names.add(str(path).casefold())
