"""A first result on a new computer: an image of each bundle with weights, segmented, and a page of them."""

from __future__ import annotations

import json
import logging
import shutil
import socket
from collections.abc import Callable, Generator, Iterator, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import nibabel as nib
import numpy as np
from monai.apps import DecathlonDataset
from PIL import Image

from sdseg_monai.bundle import DEFAULT_BUNDLE, Bundle, shipped_bundles
from sdseg_monai.demo.heart import write_heart
from sdseg_monai.demo.phantom import write_phantom
from sdseg_monai.demo.pictures import write_fetal_head, write_skin_lesion
from sdseg_monai.errors import InputError
from sdseg_monai.evaluation import evaluate_case
from sdseg_monai.inference.batch import Job, Segmentation, segment_one
from sdseg_monai.inference.pipeline import Pipeline
from sdseg_monai.inference.results import SegmentationResult
from sdseg_monai.io.files import check_folder, write_atomically
from sdseg_monai.io.sources import is_photograph
from sdseg_monai.io.volumes import check_same_grid, read_volume
from sdseg_monai.visualize import slice_panel

logger = logging.getLogger(__name__)

TASK = "Task04_Hippocampus"
SAGITTAL = 0  # sagittal slices show both parts of the hippocampus
PICTURE_SCALE = 6
CONNECT_SECONDS = 10
# each writes a made-up image and its label to a folder, and returns their files
MAKERS: dict[str, Callable[[Path], tuple[Path, Path]]] = {
    "fetal_head_sdseg": write_fetal_head,
    "left_ventricle_sdseg": write_heart,
    "skin_lesion_sdseg": write_skin_lesion,
}


def run_demo(
    output: Path,
    write_page: Callable[[Path, Sequence[Segmentation]], None],
    data: Path | None = None,
    offline: bool = False,
) -> Iterator[str]:
    """Segment an image with each installed bundle that has weights, and write the masks, a picture and one page.

    The volume of the hippocampus is a case of the test split: from ``data``, or from MSD Task04, which MONAI downloads.
    Without a network, or with ``offline``, it is an artificial volume, as the images of the other bundles always are.

    Args:
        output: folder for ``image.nii.gz``, ``mask.nii.gz`` and ``overlay.png`` of the hippocampus, for a folder for
            each other bundle, and for ``report.html``.
        write_page: writes the page of the segmentations to a file.
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
    segmentation = yield from _segment(DEFAULT_BUNDLE, image, label, output / "mask.nii.gz")
    _draw(output / "overlay.png", image, label, segmentation.result)
    yield f"drew image, label and mask side by side: {output / 'overlay.png'}"
    segmentations = [segmentation]
    for name in shipped_bundles():
        if name == DEFAULT_BUNDLE:
            continue
        if Bundle.open(name).weights is None:
            yield f"left out the bundle {name}: it has no weights"
        elif name not in MAKERS:
            yield f"left out the bundle {name}: there is no image for it here"
        else:
            image, label = MAKERS[name](output / name)
            yield f"made up an image that only resembles those of the bundle {name}: {image}"
            segmentations.append(
                (yield from _segment(name, image, label, image.with_name(image.name.replace("image", "mask"))))
            )
    write_page(output / "report.html", segmentations)
    yield f"wrote a page with every mask: {output / 'report.html'}"


def _segment(bundle: str, image: Path, label: Path, mask: Path) -> Generator[str, None, Segmentation]:
    """Segment an image, yield what was done and how the mask agrees with its label, and return it all."""
    pipeline, job = Pipeline(bundle), Job(image, mask, {})
    result = segment_one(pipeline, job)
    yield f"segmented it with the bundle {bundle} on {pipeline.segmenter.device}: {mask}"
    metrics = evaluate_case(mask, label)
    structures = [(segment.name, metrics.in_class(value).dice, [value]) for value, segment in result.segments.items()]
    if len(structures) > 1:
        structures.insert(0, ("together", metrics.foreground.dice, list(result.segments)))
    for name, dice, values in structures:
        count = np.isin(result.labels, values).sum()
        if is_photograph(image):
            yield f"{name}: {count} pixels; Dice against the label {dice:.3f}"
        else:
            yield f"{name}: volume {count * result.voxel_ml:.2f} ml; 3-D Dice against the label {dice:.3f}"
    return Segmentation(pipeline, job, result)


def _draw(path: Path, image: Path, label: Path, result: SegmentationResult) -> None:
    """Draw image, label and mask of a volume side by side."""
    volume, expected = (nib.as_closest_canonical(nib.load(file)).get_fdata() for file in (image, label))
    mask = nib.as_closest_canonical(result.to_nifti()).get_fdata()
    colours = {value: [level / 255 for level in segment.colour] for value, segment in result.segments.items()}
    panel = slice_panel(volume, expected, mask, SAGITTAL, colours=colours)
    picture = Image.fromarray((panel * 255).astype(np.uint8))
    picture = picture.resize([PICTURE_SCALE * n for n in picture.size], Image.Resampling.NEAREST)
    write_atomically(path, picture.save, ".png")


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
