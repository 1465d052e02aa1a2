"""Photographs and their masks as picture files: 8-bit RGB in, black and white PNG out."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from PIL import Image

from sdseg_monai.errors import InputError
from sdseg_monai.io import VOLUME_SUFFIXES, list_volumes, volume_stem, write_atomically

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
MODES = ("1", "L", "P", "RGB", "RGBA")  # 8 bits a channel or fewer
WHITE = 255
FOREGROUND_ABOVE = 127  # of 255; JPEG blurs the two values of a mask


def is_picture(path: Path) -> bool:
    """Tell from its name whether ``path`` is a picture file."""
    return path.suffix.lower() in PICTURE_SUFFIXES


def image_stem(path: Path) -> str:
    """Return the name of a picture or volume file without its suffix.

    Raises:
        InputError: the suffix is none that is read here.
    """
    return path.stem if is_picture(path) else volume_stem(path)


def list_images(folder: str | Path) -> list[str]:
    """Return the visible volume files of ``folder``, or, where it has none, its pictures, sorted.

    Raises:
        InputError: the folder is missing or holds neither.
    """
    visible = [p for p in Path(folder).iterdir() if p.name[0] != "."] if Path(folder).is_dir() else []
    pictures = sorted(str(path) for path in visible if is_picture(path))
    if pictures and not any(path.name.lower().endswith(VOLUME_SUFFIXES) for path in visible):
        return pictures
    return list_volumes(folder)


def read_picture(path: Path) -> np.ndarray:
    """Read a photograph as [3, H, W], float32, 0 to 255; grey ones get three equal channels, alpha is dropped.

    Raises:
        InputError: the file is missing, damaged, no picture, of more than 8 bits a channel, or has several pages.
    """
    return np.asarray(_open(path).convert("RGB"), dtype=np.float32).transpose(2, 0, 1)


def read_picture_mask(path: Path) -> np.ndarray:
    """Read a mask as [H, W], bool: what is lighter than middle grey is foreground.

    Raises:
        InputError: as :func:`read_picture`, or no pixel is lighter than middle grey and some are not black: a label
            map that counts its classes 0, 1, 2, which would read as empty.
    """
    grey = np.asarray(_open(path).convert("L"))
    if 0 < grey.max() <= FOREGROUND_ABOVE:
        raise InputError(f"{path}: its lightest pixel is {grey.max()}, expected a mask of black (0) and white (255)")
    return grey > FOREGROUND_ABOVE


def write_picture_mask(path: Path, mask: np.ndarray) -> None:
    """Write ``mask`` [H, W] as a PNG of 0 and 255; it appears under its name only when it is complete.

    Raises:
        InputError: the folder cannot be written.
    """
    picture = Image.fromarray((np.asarray(mask) > 0).astype(np.uint8) * np.uint8(WHITE))
    write_atomically(path, lambda temporary: picture.save(temporary, format="PNG"), path.suffix)


def _open(path: Path) -> Image.Image:
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            picture = Image.open(path)
            pages = getattr(picture, "n_frames", 1)
            picture.load()
    except Exception as error:  # each of PIL's decoders has exceptions of its own for a damaged file
        raise InputError(f"{path}: not a readable picture ({error})") from error
    if pages != 1:
        raise InputError(f"{path}: {pages} pages, expected one picture")
    if picture.mode not in MODES:
        raise InputError(f"{path}: pixels of mode {picture.mode}, expected 8-bit grey or RGB")
    return picture
