"""Files and folders that are written completely or not at all, and never over a user's inputs."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from safetensors import SafetensorError

from sdseg_monai.errors import InputError
from sdseg_monai.io.temporary import make_temporary_file, make_temporary_folder


def write_atomically(path: Path, write: Callable[[Path], object], suffix: str = "") -> None:
    """Call ``write`` on a temporary file in the folder of ``path`` and, if that succeeds, rename it to ``path``.

    Raises:
        InputError: the folder cannot be made or written, or ``path`` is a folder or a device.
    """
    check_name(path)
    if path.exists() and not path.is_file():
        raise InputError(f"{path}: is no ordinary file, expected the name of one")
    temporary = _make_temporary(path.parent, suffix)
    try:
        write(temporary)
        temporary.chmod(0o666 & ~_umask())  # mkstemp makes files that only their owner can read
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        temporary.unlink(missing_ok=True)


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_name(path: Path) -> None:
    """Raise :class:`InputError` where a path holds what no name of a file can: a NUL, or half a character."""
    if "\0" in str(path):
        raise InputError(f"{str(path)!r}: a path with a NUL character, expected one without")
    try:
        os.fsencode(path)
    except UnicodeEncodeError as error:
        raise InputError(f"{str(path)!a}: a path with half a character, expected whole ones") from error


def check_exists(path: Path) -> None:
    """Raise :class:`InputError` unless there is a file or folder at ``path`` that can be accessed."""
    check_name(path)
    try:
        path.stat()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file or folder") from None
    except OSError as error:  # a name that is too long, no permission for the folder, a link to itself
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error


def check_is_folder(folder: Path) -> None:
    """Raise :class:`InputError` unless ``folder``, from which images are to be read, is a folder."""
    if not folder.is_dir():
        raise InputError(f"no folder at {folder.absolute()}, expected a folder of volumes or pictures")


def check_outputs(inputs: Iterable[Path], outputs: Iterable[Path]) -> None:
    """Raise :class:`InputError` where an output is an input, or two outputs are one file."""
    # os.path.realpath, unlike Path.resolve, does not fail on a link to itself
    input_paths = {os.path.realpath(path) for path in inputs}
    output_paths: set[str] = set()
    for path in outputs:
        check_name(path)
        real_path = os.path.realpath(path)
        if real_path in input_paths:
            raise InputError(f"{path}: is an input and would be replaced, name another output")
        if real_path in output_paths:
            raise InputError(f"{path}: would be written twice, give the outputs, or the images, different names")
        output_paths.add(real_path)


def check_new_folder(folder: Path) -> None:
    """Raise :class:`InputError` if ``folder`` exists and is not an empty folder."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder}: exists, expected the name of a new folder")


def write_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Call ``write`` on a temporary folder beside ``folder`` and, if that succeeds, rename it to ``folder``.

    Raises:
        InputError: ``folder`` exists and is not empty, or cannot be made or written.
    """
    check_new_folder(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = make_temporary_folder(folder.parent)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror})") from error
    try:
        write(temporary)
        for file in temporary.rglob("*.*"):
            with file.open("rb") as handle:
                os.fsync(handle.fileno())
        temporary.chmod(0o777 & ~_umask())  # mkdtemp makes folders that only their owner can open
        temporary.replace(folder)
    except (OSError, RuntimeError, SafetensorError) as error:  # torch and safetensors raise the others on a full disk
        raise InputError(f"{folder}: cannot be written ({str(error).splitlines()[0]})") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_folder(folder: Path) -> None:
    """Make ``folder`` if it is missing and try to write in it, before hours are spent on a result to save there.

    Raises:
        InputError: the folder cannot be made or written.
    """
    _make_temporary(folder).unlink()


def _make_temporary(folder: Path, suffix: str = "") -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return make_temporary_file(folder, suffix)
    except OSError as error:
        raise InputError(f"{folder}: cannot write here ({error.strerror}), expected a writable folder") from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
