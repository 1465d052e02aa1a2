"""Photographs and their masks as picture files: 8-bit grey or RGB is read, black and white PNG is written."""

from __future__ import annotations

import warnings
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from sdseg_monai.errors import InputError
from sdseg_monai.io.files import write_atomically
from sdseg_monai.io.volumes import VOLUME_SUFFIXES, list_volumes, volume_stem

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
FORMATS = ("PNG", "JPEG", "BMP", "TIFF")  # given to PIL, which would run Ghostscript on an EPS file of any name
PHONE_FORMAT = "MPO"  # what PIL calls a JPEG with more pictures behind it (CIPA DC-007): a phone's preview or depth map
MODES = ("1", "L", "LA", "P", "RGB", "RGBA")  # of at most 8 bits per channel
WHITE = 255
FOREGROUND_ABOVE = 127  # of 255; JPEG blurs the two values of a mask
GREY_RANGE = (64, 191)  # neither black nor white
LARGEST_GREY_SHARE = 0.05  # of a mask's pixels; a JPEG has them along its outlines
ORIENTATION_TAG = 0x0112  # EXIF


def is_picture(path: Path) -> bool:
    """Tell from its name whether ``path`` is a picture file."""
    return path.suffix.lower() in PICTURE_SUFFIXES


def image_stem(path: Path) -> str:
    """Return the name of a picture or volume file without its suffix.

    Raises:
        InputError: the file has another suffix than those of pictures and volumes.
    """
    return path.stem if is_picture(path) else volume_stem(path)


def list_images(folder: str | Path) -> list[str]:
    """Return the paths of the visible volume files of ``folder``, or, where it has none, of its pictures, sorted.

    Raises:
        InputError: the folder is missing or holds neither, or two pictures whose masks would have the same name.
    """
    folder = Path(str(folder))  # a config turns the name of a folder called 2024 into a number
    paths = [path for path in folder.iterdir() if path.name[0] != "."] if folder.is_dir() else []
    pictures = sorted(path for path in paths if is_picture(path))
    if any(path.name.lower().endswith(VOLUME_SUFFIXES) for path in paths) or not folder.is_dir():
        return list_volumes(folder)
    if not pictures:
        expected = ", ".join((*VOLUME_SUFFIXES, *PICTURE_SUFFIXES))
        raise InputError(f"{folder}: no volumes or pictures there, expected files ending in {expected}")
    for picture, next_picture in pairwise(sorted(pictures, key=lambda path: path.stem)):
        if picture.stem == next_picture.stem:
            raise InputError(
                f"{next_picture}: {picture.name} has the same name, their masks would be one file: rename one of them"
            )
    return [str(path) for path in pictures]


def read_picture(path: Path) -> np.ndarray:
    """Read a photograph as [3, H, W], float32, 0 to 255; a grey one gets three equal channels, alpha is dropped.

    Of a phone's JPEG with several pictures (MPO) the first one is read, which is the photograph. Pixels of more than 8
    bits per channel are refused and not scaled: a file does not say which part of its range it uses, and the 12 bits of
    an X-ray, taken for the upper end of 16, would be nearly black.

    Raises:
        InputError: the file is missing, damaged or not a picture, has more than 8 bits per channel, other colours than
            grey and RGB (as CMYK) or several pages, or its EXIF orientation turns or mirrors it.
    """
    return np.asarray(_open(path).convert("RGB"), dtype=np.float32).transpose(2, 0, 1)


def read_picture_mask(path: Path) -> np.ndarray:
    """Read a mask as [H, W], bool: pixels lighter than middle grey are foreground.

    Raises:
        InputError: as :func:`read_picture`, or it is not black and white: a label map with the classes 0, 1, 2, a mask
            in colours, a photograph.
    """
    rgb = np.asarray(_open(path).convert("RGB"))
    if 0 < rgb.max() <= FOREGROUND_ABOVE:
        raise InputError(f"{path}: its lightest pixel is {rgb.max()}, expected a mask of black (0) and white (255)")
    grey_share = float(((rgb > GREY_RANGE[0]) & (rgb < GREY_RANGE[1])).any(axis=2).mean())
    is_light = rgb > FOREGROUND_ABOVE
    colour_share = float((is_light.any(axis=2) != is_light.all(axis=2)).mean())
    if max(grey_share, colour_share) > LARGEST_GREY_SHARE:
        raise InputError(
            f"{path}: {max(grey_share, colour_share):.0%} of its pixels are grey or coloured, expected a mask of black "
            "(0) and white (255)"
        )
    return np.asarray(is_light.all(axis=2))


def write_picture_mask(path: Path, mask: np.ndarray) -> None:
    """Write ``mask`` [H, W] of 0 and 1 as a PNG of 0 and 255; it appears under its name only when it is complete.

    Raises:
        InputError: the folder cannot be written, or the mask has a value above 1.
    """
    if np.max(mask) > 1:
        raise InputError(f"{path}: a mask with the value {np.max(mask)}, expected 0 and 1 for black and white")
    picture = Image.fromarray((np.asarray(mask) > 0).astype(np.uint8) * np.uint8(WHITE))
    write_atomically(path, lambda temporary: picture.save(temporary, format="PNG"), path.suffix)


def _raw_mode(arguments: object) -> str:
    """Return the pixels' mode in a file from the arguments of PIL's decoder: the mode, or a tuple with it first."""
    mode = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return mode if isinstance(mode, str) else ""


def _is_deep(raw_mode: str) -> bool:
    """Tell whether pixels of one of PIL's raw modes have more than 8 bits per channel; ``BGR;16`` has 5, 6 and 5."""
    return not raw_mode.startswith("BGR;") and (";16" in raw_mode or ";32" in raw_mode)


def _open(path: Path) -> Image.Image:
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            picture = Image.open(path, formats=FORMATS)
            page_count = 1 if picture.format == PHONE_FORMAT else getattr(picture, "n_frames", 1)
            is_deep = any(_is_deep(_raw_mode(tile[3])) for tile in picture.tile)
            orientation = picture.getexif().get(ORIENTATION_TAG, 1)
            picture.load()
    except UnidentifiedImageError as error:
        raise InputError(
            f"{path}: not a readable picture: its content is none of {', '.join(FORMATS)}; save it as one of these"
        ) from error
    except Exception as error:  # each of PIL's decoders has exceptions of its own for a damaged file
        raise InputError(f"{path}: not a readable picture ({error})") from error
    if page_count != 1:
        raise InputError(f"{path}: {page_count} pages, expected one picture: save the page to use as a file of its own")
    if picture.mode == "CMYK":
        raise InputError(f"{path}: colours for printing (CMYK), expected grey or RGB: convert it to RGB first")
    if picture.mode not in MODES or is_deep:
        raise InputError(
            f"{path}: pixels of more than 8 bits or of mode {picture.mode}, expected 8-bit grey or RGB: scale the "
            "part of the range that it uses to 0 to 255 first, as for the training's pictures"
        )
    if orientation != 1:
        raise InputError(
            f"{path}: its EXIF orientation is {orientation}, so masks would not fit: rotate its pixels first"
        )
    return picture
