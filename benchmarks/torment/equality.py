"""The mask of an image does not depend on how it is computed."""

from __future__ import annotations

import shutil
from pathlib import Path

from torment import folder_runs
from torment.children import SDSEG, run
from torment.examples import write_phantom
from torment.tries import Group, Setting, Try

IMAGES = ("a.nii.gz", "b.nii.gz", "c.nii.gz")
KINDS = ("batch size", "threads", "order of files", "restart", "form of the input")


def prepare(setting: Setting) -> None:
    """Write the images and their masks to compare with."""
    if not (setting.common / "masks").exists():
        for seed, name in enumerate(IMAGES):
            write_phantom(setting.common / "images" / name, seed)
        _segment(setting.common / "images", setting.common / "masks", setting.common)


def _segment(source: Path, output: Path, place: Path, *options: object, threads: int = 1) -> None:
    command = [*SDSEG, "segment", source, "-o", output, "--device", "cpu", *options]
    code, text = run(command, place, OMP_NUM_THREADS=str(threads))
    if code:
        raise RuntimeError(f"ends with {code}: {text[-1500:]}")


def _list(setting: Setting, path: Path, images: tuple[str, ...]) -> Path:
    path.write_text("image\n" + "".join(f"{setting.common / 'images' / name}\n" for name in images))
    return path


def _batch(setting: Setting, place: Path, size: int) -> None:
    _segment(setting.common / "images", place / "masks", place, "--batch-size", size)


def _threads(setting: Setting, place: Path, threads: int) -> None:
    _segment(setting.common / "images", place / "masks", place, threads=threads)


def _order(setting: Setting, place: Path, step: int) -> None:
    images = tuple(IMAGES[(position * step) % len(IMAGES)] for position in range(len(IMAGES)))
    _segment(_list(setting, place / "list.csv", images[::-1]), place / "masks", place)


def _restart(setting: Setting, place: Path, first: int) -> None:
    """Segment a part, then all with ``--resume``."""
    part = place / "images"
    part.mkdir()
    for name in IMAGES[:first]:
        shutil.copy(setting.common / "images" / name, part)
    _segment(part, place / "masks", place)
    _segment(setting.common / "images", place / "masks", place, "--resume")


def _alone(setting: Setting, place: Path, _: int) -> None:
    (place / "masks").mkdir()
    for name in IMAGES:
        _segment(setting.common / "images" / name, place / "masks" / name, place)


WAYS = (
    *((KINDS[0], _batch, size) for size in (1, 2, 3, 32, 1000)),
    *((KINDS[1], _threads, threads) for threads in (2, 3)),
    *((KINDS[2], _order, step) for step in (1, 2)),
    *((KINDS[3], _restart, first) for first in (1, 2, 3)),
    (KINDS[4], _alone, 0),
)


def attempt(setting: Setting, index: int) -> Try:
    """Segment the images in one of the ways, and compare the masks' bytes."""
    kind, way, number = WAYS[index]
    place = setting.place(index)
    try:
        way(setting, place, number)
    except RuntimeError as error:
        return Try(index, kind, f"{kind}: {number}", "", str(error))
    expected, found = (folder_runs.hashes(folder / "masks") for folder in (setting.common, place))
    different = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    return Try(index, kind, f"{kind}: {number}", "", f"other masks of {different}" if different else "")


GROUP = Group(
    name="equality",
    title="Equal masks however they are computed",
    about=f"{len(IMAGES)} volumes are segmented with the shipped weights in batches of other sizes, with several "
    "threads, in another order, in two runs of which the second resumes the first, and each alone. Right is "
    "that the files of the masks are equal byte by byte.",
    number=len(WAYS),
    quick=2,
    attempt=attempt,
    prepare=prepare,
)
