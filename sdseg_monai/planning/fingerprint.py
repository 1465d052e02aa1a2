"""The fingerprint of images and labels: each pair is checked and measured while it is in memory."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import nibabel as nib
import numpy as np
from tqdm import tqdm

from sdseg_monai.errors import InputError
from sdseg_monai.evaluation.pairs import ENDINGS, case_name, check_same_kind, list_cases, pair_cases
from sdseg_monai.io.label_maps import UNSURE_MEANING, check_label_map, read_mask
from sdseg_monai.io.pictures import is_picture, read_picture
from sdseg_monai.io.segments import UNSURE
from sdseg_monai.io.volumes import Volume, read_volume, voxel_millilitres
from sdseg_monai.io.voxel_order import on_same_grid
from sdseg_monai.io.warnings import log_warnings
from sdseg_monai.networks.codes import MOST_CLASSES

FURTHER_CHANNEL = re.compile(r"_(?!0000)\d{4}$")  # of nnU-Net's images
MOST_FAULTS = 20  # number of faults that one error names
LARGEST_VALUE = 65535  # in a label
SAMPLE = 10_000  # number of foreground voxels of a case that the percentiles are computed from
PERCENTILES = (0.5, 50.0, 99.5)
AIR_BELOW = -300  # HU; MR has no such low values, and a CT contains air or padding unless it was cropped


@dataclass(frozen=True, kw_only=True)
class Case:
    """The measures of one image and its label.

    Attributes:
        name: name of the label's file, without suffix.
        image: file of the image.
        label: file of the label.
        shape: number of voxels along right, anterior and superior; of a picture height, width and 1.
        spacing: lengths of a voxel's edges along these axes, in mm; of a picture 1.
        extent: size of the box around the volume, right-left, posterior-anterior and inferior-superior, in mm.
        intensities: the :data:`PERCENTILES` of the image.
        lowest: lowest intensity of the image.
        foreground: intensities of foreground voxels, [N] with N at most :data:`SAMPLE`, evenly spaced; of a picture the
            mean of its channels.
        voxels: number of voxels by value of the label, the background (0) included; only values that occur.
        voxel_ml: volume of a voxel, in ml.
        digest: SHA-256 of the image's shape and voxels; those of a volume in the order that is closest to RAS+.
    """

    name: str
    image: Path
    label: Path
    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    extent: tuple[float, float, float]
    intensities: tuple[float, float, float]
    lowest: float
    foreground: np.ndarray
    voxels: dict[int, int]
    voxel_ml: float
    digest: str


@dataclass(frozen=True, kw_only=True)
class Fingerprint:
    """The measures of all cases.

    Attributes:
        cases: the cases, in the order of their names.
        pictures: True for photographs, False for volumes.
        values: values in the labels, 0 first; the index of a value is its class.
    """

    cases: tuple[Case, ...]
    pictures: bool
    values: tuple[int, ...]

    @property
    def num_classes(self) -> int:
        """K, the number of classes, the background included."""
        return len(self.values)

    @cached_property
    def looks_like_ct(self) -> bool:
        """Whether at least half of the volumes have intensities that can only be air in Hounsfield units."""
        return not self.pictures and float(np.median([case.lowest for case in self.cases])) < AIR_BELOW

    @cached_property
    def spacing(self) -> np.ndarray:
        """Median spacing along right, anterior and superior, [3], in mm."""
        return np.median([case.spacing for case in self.cases], axis=0)

    @cached_property
    def shape(self) -> np.ndarray:
        """Median shape, [3]."""
        return np.median([case.shape for case in self.cases], axis=0)

    @cached_property
    def foreground_range(self) -> tuple[float, float]:
        """The 0.5th and 99.5th percentile of the foreground's intensities, over the samples of all cases."""
        intensities = np.concatenate([case.foreground for case in self.cases])
        low, high = np.percentile(intensities, [PERCENTILES[0], PERCENTILES[-1]])
        return float(low), float(high)

    def volumes_of(self, value: int) -> list[float]:
        """Return the volumes of a label value, in ml (of pictures in pixels), one for each case that has it."""
        factor = 1.0 if self.pictures else None
        return [case.voxels[value] * (factor or case.voxel_ml) for case in self.cases if value in case.voxels]

    def as_json(self) -> dict[str, object]:
        """Return a summary for JSON, without paths."""
        return {
            "kind": "pictures" if self.pictures else "volumes",
            "cases": len(self.cases),
            "median_shape": self.shape.tolist(),
            "median_spacing_mm": None if self.pictures else self.spacing.round(4).tolist(),
            "intensity_percentiles": {
                str(percentile): round(float(np.median([case.intensities[i] for case in self.cases])), 4)
                for i, percentile in enumerate(PERCENTILES)
            },
            "lowest_intensity": min(case.lowest for case in self.cases),
            "foreground_0.5_to_99.5": [round(end, 4) for end in self.foreground_range],
            "classes": {
                str(index): {
                    "label_value": value,
                    "cases": len(volumes := self.volumes_of(value)),
                    f"median_{'pixels' if self.pictures else 'ml'}": round(float(np.median(volumes)), 4),
                    f"smallest_{'pixels' if self.pictures else 'ml'}": round(min(volumes), 4),
                }
                for index, value in enumerate(self.values)
                if index > 0
            },
        }


def fingerprint_folders(images: Path, labels: Path, progress: bool = True) -> Fingerprint:
    """Match the images of a folder with the labels of another folder, check each pair, and measure it.

    They are matched by :func:`~sdseg_monai.evaluation.pair_cases`: by name, or by the only number of that kind at the
    end of the name.

    Args:
        images: folder of volumes, or of pictures if it has no volume.
        labels: folder of label maps on the same grids (the order of the voxels may differ), 0 for the background, or of
            black and white pictures. The values are 0 to K-1; if there is one value beside 0, such as 255, it is
            class 1.
        progress: show a progress bar.

    Raises:
        InputError: a folder cannot be used; or some files cannot, whose faults it names (the first
            :data:`MOST_FAULTS`); or the labels have other values.
    """
    pairs, faults = pair_files(images, labels)
    cases: list[Case] = []
    for name, image, label in tqdm(pairs, desc="looking at", unit="case", disable=None if progress else True):
        try:
            cases.append(read_case(name, image, label))
        except InputError as error:
            faults.append(str(error))
    if not faults:
        faults = _value_faults(labels, cases)
    if faults:
        rest = f"; and {len(faults) - MOST_FAULTS} more" if len(faults) > MOST_FAULTS else ""
        count = f"{len(faults)} faults, nothing was written: " if len(faults) > 1 else ""
        raise InputError(f"{count}{'; '.join(faults[:MOST_FAULTS])}{rest}")
    values = sorted({value for case in cases for value in case.voxels})
    return Fingerprint(cases=tuple(cases), pictures=is_picture(cases[0].image), values=tuple(values))


def pair_files(images: Path, labels: Path) -> tuple[list[tuple[str, Path, Path]], list[str]]:
    """Return the cases, each (name, image, label), in the order of their names, and a text about the unmatched files.

    Raises:
        InputError: a folder is missing or empty, or has two files of one case, or both folders are the same.
    """
    if images.resolve() == labels.resolve():
        raise InputError(f"{labels}: the labels are the images, expected two folders")
    label_of_case = list_cases(labels)
    pairing = pair_cases(list_cases(images), label_of_case)
    faults = []
    if pairing.files:
        channels = [path for path in pairing.files if FURTHER_CHANNEL.sub("", case_name(path)) in label_of_case]
        hint = f", and {channels[0].name} is a further channel of an image, expected one channel" if channels else ""
        faults.append(f"{_some(pairing.files)} without a label of the same name in {labels} ({ENDINGS}){hint}")
    if pairing.labels:
        faults.append(f"{_some(pairing.labels)} without an image of the same name in {images} ({ENDINGS})")
    return sorted((case_name(label), image, label) for image, label in pairing.pairs), faults


def read_case(name: str, image_path: Path, label_path: Path) -> Case:
    """Check and measure a pair of files.

    Raises:
        InputError: a file cannot be read; or one is a volume and the other one a picture; or they have different grids;
            or the image has only one intensity; or the label has values that cannot be classes.
    """
    check_same_kind(image_path, label_path)
    if is_picture(image_path):
        image = Volume(read_picture(image_path).mean(axis=0)[..., None], np.eye(4))
    else:
        image = read_volume(image_path)
    label_volume = read_mask(label_path)
    for path, volume in ((image_path, image), (label_path, label_volume)):
        log_warnings(path, volume.warnings)
    label = on_same_grid(image_path, image, label_path, label_volume)
    if image.array.min() == image.array.max():
        raise InputError(f"{image_path}: every voxel is {image.array.min():g}, expected an image")
    classes = check_label_map(label_path, label.array, largest=LARGEST_VALUE, most_values=MOST_CLASSES).astype(np.int64)
    foreground = image.array[classes > 0]
    axes = np.arange(3) if is_picture(image_path) else nib.io_orientation(image.affine)[:, 0].astype(int)
    shape, spacing = np.empty(3, int), np.empty(3)
    shape[axes], spacing[axes] = image.array.shape, np.linalg.norm(image.affine[:3, :3], axis=0)
    counts = np.bincount(classes.ravel())
    width, depth, height = shape.tolist()
    return Case(
        name=name,
        image=image_path,
        label=label_path,
        shape=(width, depth, height),
        spacing=_three(spacing),
        extent=_three(np.abs(image.affine[:3, :3] * image.array.shape).sum(axis=1)),
        intensities=_three(np.percentile(image.array, PERCENTILES)),
        lowest=float(image.array.min()),
        foreground=foreground[:: max(1, len(foreground) // SAMPLE)][:SAMPLE],
        voxels={int(value): int(counts[value]) for value in np.flatnonzero(counts)},
        voxel_ml=voxel_millilitres(image.affine),
        digest=_digest(image),
    )


def _value_faults(labels: Path, cases: Sequence[Case]) -> list[str]:
    values = sorted({value for case in cases for value in case.voxels})
    text = ", ".join(map(str, values))
    if len(cases) == 1:
        return [f"{labels}: one case, expected two or more: one to train on, another to choose the model by"]
    if values[0] != 0:
        return [f"{labels}: hold the values {text}, expected 0 for the background"]
    if len(values) == 1:
        return [f"{labels}: hold nothing but 0, expected some foreground"]
    if len(values) > 2 and UNSURE in values:
        files = [case.label for case in cases if UNSURE in case.voxels]
        return [
            f"{labels}: hold the values {text}, {UNSURE} in {_some(files)}; {UNSURE_MEANING}; if it is a class, "
            f"renumber it to {len(values) - 1}"
        ]
    if len(values) > MOST_CLASSES:
        return [f"{labels}: hold {len(values)} different values, expected {MOST_CLASSES} classes or fewer"]
    if len(values) > 2 and values[-1] != len(values) - 1:
        moves = ", ".join(f"{value} to {index}" for index, value in enumerate(values) if index != value)
        return [f"{labels}: hold the values {text}, expected 0 to {len(values) - 1} without gaps: renumber {moves}"]
    return []


def _digest(image: Volume) -> str:
    """Return the SHA-256 of a volume's shape and voxels, whatever the order in which a file has them."""
    array = np.ascontiguousarray(nib.apply_orientation(image.array, nib.io_orientation(image.affine)))
    return hashlib.sha256(str(array.shape).encode() + array.tobytes()).hexdigest()


def _some(paths: Sequence[Path]) -> str:
    names = ", ".join(path.name for path in paths[:MOST_FAULTS])
    rest = f" and {len(paths) - MOST_FAULTS} more" if len(paths) > MOST_FAULTS else ""
    return f"{len(paths)} {'file' if len(paths) == 1 else 'files'} ({names}{rest})"


def _three(values: np.ndarray) -> tuple[float, float, float]:
    x, y, z = (float(value) for value in values)
    return x, y, z
