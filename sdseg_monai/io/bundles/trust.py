"""The code of bundles that the user of this computer trusts, remembered by its SHA-256."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterable
from importlib.machinery import all_suffixes
from pathlib import Path

from sdseg_monai.errors import ArgumentError
from sdseg_monai.io.files import hash_file

logger = logging.getLogger(__name__)

CONFIG_SUFFIXES = (".json", ".yaml", ".yml")
SHOWN = 3  # pieces of code in a message
SHOWN_CHARACTERS = 70  # of each

_trusted: set[str] = set()  # in this process, also where nothing can be saved


def check_trust(source: Path, digest: str, code: Iterable[object], trust: bool) -> None:
    """Remember that the user trusts the code of ``source``, or refuse to run it.

    Args:
        source: a bundle's folder, or a config.
        digest: SHA-256 of all its code, in hexadecimal digits.
        code: pieces of it, for the message.
        trust: whether the user says now that it is trusted.

    Raises:
        ArgumentError: the user has never said that this code is trusted.
    """
    if trust:
        _remember(digest)
    elif not _is_trusted(digest):
        texts = [" ".join(str(piece).split()) for piece in code]
        shown = [text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "..." for text in texts[:SHOWN]]
        more = f" and {len(texts) - SHOWN} more" if len(texts) > SHOWN else ""
        raise ArgumentError(
            f"{source}: has code of its own, which would run with your rights: {'; '.join(shown)}{more}; read it, and "
            "if you trust it, give trust=True once"
        )


def code_digest(root: Path) -> str:
    """Return the SHA-256 of a bundle's code: its configs and Python modules, with their names; not its weights."""
    configs = (file for file in (root / "configs").rglob("*") if file.suffix.lower() in CONFIG_SUFFIXES)
    files = sorted({file.relative_to(root) for file in configs if file.is_file()}.union(list_modules(root)))
    lines = [f"{hash_file(root / file)} {file.as_posix()!r}\n" for file in files]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def list_modules(root: Path) -> list[Path]:
    """Return the files in a bundle's folder that Python could import, relative to the folder."""
    files = (file for file in root.rglob("*") if file.name.endswith(tuple(all_suffixes())) and file.is_file())
    return sorted(file.relative_to(root) for file in files)


def trust_folder() -> Path:
    """Return the folder with an empty file for each trusted digest, in the user's folder for states (XDG)."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state", "sdseg-monai", "trusted")


def _is_trusted(digest: str) -> bool:
    try:
        return digest in _trusted or (trust_folder() / digest).is_file()
    except (OSError, RuntimeError):  # the folder is not accessible; there is no home folder
        return False


def _remember(digest: str) -> None:
    _trusted.add(digest)
    try:
        folder = trust_folder()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        (folder / digest).touch(mode=0o600)  # one file for each: two processes cannot spoil each other's
    except (OSError, RuntimeError) as error:
        logger.warning("the trust cannot be remembered for the next time (%s)", error)
