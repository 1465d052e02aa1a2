"""A first result on a new computer: one volume, segmented with the embedded bundle, and a picture of it."""

from __future__ import annotations

import json
import logging
import shutil
import socket
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import nibabel as nib
import numpy as np
from monai.apps import DecathlonDataset
from PIL import Image

from sdseg_monai.bundle import DEFAULT_BUNDLE, Bundle
from sdseg_monai.demo.phantom import write_phantom
from sdseg_monai.errors import InputError
from sdseg_monai.evaluation import evaluate_case
from sdseg_monai.inference.pipeline import Pipeline
from sdseg_monai.io.files import check_folder, write_atomically
from sdseg_monai.io.volumes import check_same_grid, read_volume
from sdseg_monai.visualize import slice_panel

logger = logging.getLogger(__name__)

TASK = "Task04_Hippocampus"
SAGITTAL = 0  # sagittal slices show both parts of the hippocampus
PICTURE_SCALE = 6
CONNECT_SECONDS = 10


def run_demo(output: Path, data: Path | None = None, offline: bool = False) -> Iterator[str]:
    """Segment one volume, and write the mask and a picture of it.

    The volume is a case of the test split: from ``data``, or from MSD Task04, which MONAI downloads. Without a network,
    or with ``offline``, it is an artificial volume.

    Args:
        output: folder for ``image.nii.gz``, ``mask.nii.gz`` and ``overlay.png``.
        data: folder of MSD Task04_Hippocampus, which contains ``imagesTr`` or ``images``.
        offline: use an artificial volume, and download nothing.

    Yields:
        What was done, one line for each step.

    Raises:
        InputError: the folder cannot be written, or ``data`` holds no case of the test split.
    """
    check_folder(output)
    image, label, about = _find_case(output, data, offline)
    yield about
    check_same_grid(image, read_volume(image), label, read_volume(label))
    pipeline = Pipeline(DEFAULT_BUNDLE)
    result = pipeline(image)
    result.save(output / "mask.nii.gz")
    yield f"segmented it with the bundle {DEFAULT_BUNDLE} on {pipeline.segmenter.device}: {output / 'mask.nii.gz'}"
    volume = nib.as_closest_canonical(nib.load(image))
    expected, mask = (nib.as_closest_canonical(nib.load(path)).get_fdata() for path in (label, output / "mask.nii.gz"))
    colours = {value: [level / 255 for level in segment.colour] for value, segment in result.segments.items()}
    panel = slice_panel(volume.get_fdata(), expected, mask, SAGITTAL, colours=colours)
    picture = Image.fromarray((panel * 255).astype(np.uint8))
    picture = picture.resize([PICTURE_SCALE * n for n in picture.size], Image.Resampling.NEAREST)
    write_atomically(output / "overlay.png", picture.save, ".png")
    yield f"drew image, label and mask side by side: {output / 'overlay.png'}"
    metrics = evaluate_case(output / "mask.nii.gz", label)
    structures = [("together", result.labels > 0, metrics.foreground.dice)]
    for value, segment in result.segments.items():
        structures.append((segment.name, result.labels == value, metrics.in_class(value).dice))
    for name, voxels, dice in structures:
        yield f"{name}: volume {voxels.sum() * result.voxel_ml:.2f} ml; 3-D Dice against the label {dice:.3f}"


def _find_case(output: Path, data: Path | None, offline: bool) -> tuple[Path, Path, str]:
    if data is not None:
        return _test_case(data)
    if not offline:
        try:
            with TemporaryDirectory() as scratch:
                return _fetched_case(Path(scratch), output)
        except InputError:
            raise
        except Exception as error:  # no connection, or no archive came: MONAI raises plain Exceptions
            logger.debug("Task04 could not be fetched: %s", error)
    image, label = output / "image.nii.gz", output / "label.nii.gz"
    write_phantom(image, label)
    return image, label, f"no real data at hand: made up a volume that only resembles a hippocampus: {image}"


def _fetched_case(scratch: Path, output: Path) -> tuple[Path, Path, str]:
    """Download Task04 into ``scratch``, and copy one case of the test split to ``output``."""
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(CONNECT_SECONDS)
    try:
        DecathlonDataset(str(scratch), TASK, "training", download=True, cache_num=0, progress=False)
    finally:
        socket.setdefaulttimeout(timeout)
    image, label, about = _test_case(scratch / TASK)
    targets = output / "image.nii.gz", output / "label.nii.gz"
    for source, target in zip((image, label), targets, strict=True):
        write_atomically(target, partial(shutil.copyfile, source))
    return *targets, about


def _test_case(data: Path) -> tuple[Path, Path, str]:
    """Return image and label of the first case of the test split that is in ``data``, and a line that says so."""
    datalist = json.loads(Bundle.open(DEFAULT_BUNDLE).config_file("datalist").read_text())
    for item in datalist["test"]:
        name = Path(item["image"]).name
        for images, labels in (("imagesTr", "labelsTr"), ("images", "labels")):
            image, label = data / images / name, data / labels / name
            if image.is_file() and label.is_file():
                return image, label, f"took {name} of the test split, which the network has not seen: {image}"
    raise InputError(f"{data}: no case of the test split there, expected the folder of MSD {TASK} with imagesTr")
