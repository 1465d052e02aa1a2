"""Audit labels: how well the mask autoencoder of a bundle reconstructs them, the Dice of decode(encode(label)).

A model that learns these latents cannot do better. A model that learns through the decoder alone may use other latents.
No model predicts latents exactly: the audit also says what is left of the labels where the latents have some noise.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.metrics import compute_dice
from monai.transforms import Transform
from torch.nn import functional as F
from tqdm import tqdm

from sdseg_monai.bundle import Bundle, config_errors, read_part, read_path
from sdseg_monai.errors import InputError
from sdseg_monai.evaluation import case_name, compare_masks, list_cases
from sdseg_monai.io.label_maps import check_label_map
from sdseg_monai.io.pictures import is_picture
from sdseg_monai.io.tables import write_table
from sdseg_monai.io.volumes import read_volume
from sdseg_monai.io.warnings import log_warnings
from sdseg_monai.networks import MaskAutoencoder, TinyMaskAutoencoder
from sdseg_monai.networks.codes import (
    MOST_CLASSES,
    check_channels,
    class_codes,
    classes_from_score,
    mask_to_image,
    score_from_mask_image,
)
from sdseg_monai.networks.device import checked_device
from sdseg_monai.seeding import seeded_normal
from sdseg_monai.transforms.slices import check_grid, extract_slices, resize_labels, resize_slices
from sdseg_monai.transforms.steps import apply_steps
from sdseg_monai.weights import fill_autoencoder, fill_from_segmenter

PREPROCESSING = "train#preprocessing"
SIZES = (1, 16, 64, 256, 1024, 4096, 16384)  # pixels of a class in a slice: lower ends of the bins
PICTURE_AXIS = 2  # slice axis of a photograph, which is one slice
BATCH_SIZE = 8
LATENT_NOISE = (0.0, 0.1, 0.2)  # standard deviation, relative to that of a label's latents
STRAY_DISTANCE = 4  # pixels from a class's nearest pixel in the label, from which on its pixels are strays


@dataclass(frozen=True, kw_only=True)
class Reconstruction:
    """How well the mask autoencoder reconstructs one class of a slice or a case.

    Attributes:
        case: name of the case.
        slice: index of the slice, in the bundle's orientation; None for the whole case.
        label: value of the class.
        size: in a slice, the number of the label's pixels on the network's grid; in a case, the number of its voxels on
            the label's own grid. 0 if the class is only in the reconstruction.
        dice: Dice of the reconstruction and the label, on the same grid.
        strays: number of pixels of the reconstruction, on the network's grid, that are more than
            :data:`STRAY_DISTANCE` pixels from every pixel that the class has in the slice of the label.
        noise: standard deviation of the noise that the latents had, relative to that of the label's latents.
    """

    case: str = ""
    slice: int | None
    label: int
    size: int
    dice: float
    strays: int = 0
    noise: float = 0.0


@dataclass(frozen=True, kw_only=True)
class SizeBin:
    """The slices in which a class has a number of pixels from ``smallest`` up to the next bin.

    Attributes:
        smallest: least number of pixels.
        count: number of slices.
        dice: mean Dice.
        worst: lowest Dice.
    """

    smallest: int
    count: int
    dice: float
    worst: float


@dataclass(frozen=True, kw_only=True)
class Audit:
    """The mask autoencoder of a bundle, with the bundle's preprocessing of labels.

    Attributes:
        autoencoder: the mask autoencoder, in evaluation mode.
        preprocessing: the bundle's transforms for an image and its label.
        num_classes: K, the number of classes, the background included.
        size: (H, W) of the network's grid.
        slice_axis: spatial axis across which slices are taken, after the preprocessing.
        weights: the file of the autoencoder's weights.
        config: the file ``train.json`` of the bundle, for messages.
    """

    autoencoder: MaskAutoencoder | TinyMaskAutoencoder
    preprocessing: Transform
    num_classes: int
    size: tuple[int, int]
    slice_axis: int
    weights: str
    config: Path

    def read(self, path: Path) -> torch.Tensor:
        """Read a label file into the bundle's orientation, [1, X, Y, Z] in {0..K-1}.

        Raises:
            InputError: the file cannot be used, is an image, or has other classes than the bundle.
        """
        if not is_picture(path):
            volume = read_volume(path)
            log_warnings(path, volume.warnings)
            check_label_map(path, volume.array, most_values=MOST_CLASSES)
        elif self.slice_axis != PICTURE_AXIS:
            raise InputError(f"{path}: a picture, but the bundle takes slices of volumes; expected volumes")
        with warnings.catch_warnings():
            # the preprocessing needs an image: the label takes its place, and the result is not used
            warnings.simplefilter("ignore")
            files = {"image": str(path), "label": str(path), "warnings": []}  # those of the file are logged
            item = apply_steps(self.preprocessing, files, "label", self.config, PREPROCESSING)
        return torch.as_tensor(item["label"]).as_subclass(torch.Tensor)

    def run(self, path: Path) -> list[Reconstruction]:
        """Audit a label file: each slice on the network's grid, and the whole case on its own grid.

        Raises:
            InputError: see :meth:`read`.
        """
        return audit_label(
            self.autoencoder,
            self.read(path),
            case_name(path),
            num_classes=self.num_classes,
            size=self.size,
            slice_axis=self.slice_axis,
        )


def load_audit(
    bundle: str | Path, device: str | None = None, overlays: Sequence[Path] = (), *, trust: bool = False
) -> Audit:
    """Return the audit of a bundle. The bundle need not be trained; it only needs its mask autoencoder.

    Args:
        bundle: name of a shipped bundle, or a bundle's folder. Its configs are code.
        device: torch device; None for the bundle's choice.
        overlays: configs to chain after the bundle's ``train.json``. They are code, like the bundle's own.
        trust: run code of these that does not come with this package, now and later.

    Raises:
        InputError: there is no such bundle, overlay or device; or neither the weights of the autoencoder nor those of
            the trained network are there; or there is code that is not trusted.
    """
    files = Bundle.open(bundle, trust)
    config = files.config_file("train")
    with config_errors(config):
        parser = files.config("train", overlays)
    if device is not None:
        parser["device"] = checked_device(device)
    size, slice_axis = (read_part(parser, config, name) for name in ("size", "slice_axis"))
    try:
        check_grid(size, slice_axis)
    except InputError as error:
        raise InputError(f"{config}: {error}") from error
    autoencoder = read_part(parser, config, "network_def#autoencoder", MaskAutoencoder, TinyMaskAutoencoder).eval()
    weights = read_path(parser, config, "autoencoder_weights")
    # an overlay may name the weights of the network; train.json does not
    if "checkpoint" in parser:
        checkpoint = read_path(parser, config, "checkpoint")
    else:
        inference_config = files.config_file("inference")
        with config_errors(inference_config):
            checkpoint = read_path(files.config("inference"), inference_config, "checkpoint")
    if weights.exists():
        fill_autoencoder(autoencoder, weights)
    elif checkpoint.is_file():
        fill_from_segmenter(autoencoder, checkpoint)
    else:
        raise InputError(
            f"{files.root}: neither {weights} nor {checkpoint} is there, expected a trained mask autoencoder"
        )
    with config_errors(config):
        autoencoder.to(read_part(parser, config, "device"))
    num_classes = read_part(parser, config, "num_classes", int)
    with config_errors(config):
        check_channels(num_classes, autoencoder.mask_channels)
    height, width = size
    return Audit(
        autoencoder=autoencoder,
        preprocessing=read_part(parser, config, PREPROCESSING, Transform),
        num_classes=num_classes,
        size=(height, width),
        slice_axis=slice_axis,
        weights=str(weights if weights.exists() else checkpoint),
        config=config,
    )


def audit_folder(audit: Audit, labels: Path, progress: bool = True) -> list[Reconstruction]:
    """Audit the labels of a folder: its volumes, or its pictures if it has no volume.

    Raises:
        InputError: the folder is missing or empty, two files are of one case, a file cannot be used, or no label has
            any foreground.
    """
    paths = list_cases(labels)
    bar = tqdm(paths.values(), desc="auditing", unit="label", disable=None if progress else True, leave=False)
    reconstructions = [row for path in bar for row in audit.run(path)]
    if not any(row.size for row in reconstructions):
        raise InputError(f"{labels}: no label of the {len(paths)} there has any foreground, expected some")
    return reconstructions


def audit_label(
    autoencoder: MaskAutoencoder | TinyMaskAutoencoder,
    label: torch.Tensor,
    case: str,
    *,
    num_classes: int,
    size: Sequence[int],
    slice_axis: int,
    latent_noise: Sequence[float] = LATENT_NOISE,
) -> list[Reconstruction]:
    """Encode and decode each slice of a label, and compare the reconstruction with the label.

    The slices are resized as in the training. The scores are resized back as in inference, before a class is chosen.

    Args:
        autoencoder: the mask autoencoder, in evaluation mode.
        label: class of each voxel, [1, X, Y, Z] in {0..K-1}.
        case: name of the case.
        num_classes: K, the number of classes, the background included.
        size: (H, W) of the network's grid.
        slice_axis: spatial axis across which slices are taken.
        latent_noise: standard deviations of the latents' noise, see :class:`Reconstruction`; seeded by slice.

    Returns:
        For each of ``latent_noise`` a record for each class of each slice, then one for each class of the whole case. A
        class that is neither in the label nor in the reconstruction has no record.
    """
    latents = torch.cat([encode(autoencoder, masks, num_classes) for _, masks in label_slices(label, size, slice_axis)])
    noise = latents.std() * seeded_normal(torch.arange(len(latents)), latents.shape[1:])  # [N, Z, h, w]
    return [
        replace(row, case=case, noise=level)
        for level in latent_noise
        for row in _compare(autoencoder, latents + level * noise, label, num_classes, size, slice_axis)
    ]


def _compare(
    autoencoder: MaskAutoencoder | TinyMaskAutoencoder,
    latents: torch.Tensor,
    label: torch.Tensor,
    num_classes: int,
    size: Sequence[int],
    slice_axis: int,
) -> Iterator[Reconstruction]:
    """Decode the latents [N, Z, h, w] of a label's slices and compare them with it, see :func:`audit_label`."""
    reconstruction = torch.zeros(label.shape[1:], dtype=torch.uint8)  # [X, Y, Z]
    in_plane = [length for axis, length in enumerate(reconstruction.shape) if axis != slice_axis]
    case_strays = dict.fromkeys(range(1, num_classes), 0)
    for start, masks in label_slices(label, size, slice_axis):
        score = decode(autoencoder, latents[start : start + len(masks)], num_classes)
        classes = classes_from_score(score)
        strays = {value: count_strays(classes, masks, value) for value in case_strays}
        for offset, row in enumerate(slice_dice(classes, masks, num_classes)):
            for value, (pixels, dice) in row.items():
                count = strays[value][offset]
                yield Reconstruction(slice=start + offset, label=value, size=pixels, dice=dice, strays=count)
                case_strays[value] += count
        slab = classes_from_score(resize_slices(score, in_plane))[:, 0].movedim(0, slice_axis)
        reconstruction.narrow(slice_axis, start, len(masks)).copy_(slab)
    for value, agreement in compare_masks("", reconstruction, label[0]).classes.items():
        count, dice = case_strays[value], float(agreement.dice)
        yield Reconstruction(slice=None, label=value, size=int((label == value).sum()), dice=dice, strays=count)


def label_slices(label: torch.Tensor, size: Sequence[int], slice_axis: int) -> Iterator[tuple[int, torch.Tensor]]:
    """Yield the slices of ``label`` [1, X, Y, Z], resized as in the training, a few at a time.

    Yields:
        The index of the first slice, and the class maps [N, 1, H, W] in {0..K-1}, float32.
    """
    depth = label.shape[slice_axis + 1]
    for start in range(0, depth, BATCH_SIZE):
        slices = extract_slices(label, slice_axis, start, min(start + BATCH_SIZE, depth))
        yield start, resize_labels(slices, size)


@torch.inference_mode()
def encode(autoencoder: MaskAutoencoder | TinyMaskAutoencoder, masks: torch.Tensor, num_classes: int) -> torch.Tensor:
    """Encode class maps [N, 1, H, W] to latents [N, Z, h, w], not scaled, on the CPU."""
    mask_image = mask_to_image(masks, class_codes(num_classes))
    return autoencoder.encode_latent(mask_image.to(autoencoder.device)).cpu()


@torch.inference_mode()
def decode(autoencoder: MaskAutoencoder | TinyMaskAutoencoder, latents: torch.Tensor, num_classes: int) -> torch.Tensor:
    """Decode latents [N, Z, h, w] to the scores that a segmentation network would return, on the CPU."""
    mask_image = autoencoder.decode(latents.to(autoencoder.device)).sample.cpu()
    return score_from_mask_image(mask_image, class_codes(num_classes))


def count_strays(predicted: torch.Tensor, expected: torch.Tensor, value: int) -> list[int]:
    """Count the pixels of a class far from all that it has in the label, by slice.

    Args:
        predicted: class map, [N, 1, H, W].
        expected: the label, [N, 1, H, W].
        value: of the class.

    Returns:
        For each slice the number of pixels that are more than :data:`STRAY_DISTANCE` rows or columns from the nearest
        pixel of the class in ``expected``.
    """
    reach = F.max_pool2d((expected == value).float(), 2 * STRAY_DISTANCE + 1, stride=1, padding=STRAY_DISTANCE)
    return ((predicted == value) & (reach == 0)).flatten(1).sum(dim=1).tolist()


def slice_dice(
    predicted: torch.Tensor, expected: torch.Tensor, num_classes: int
) -> Iterator[dict[int, tuple[int, float]]]:
    """Compare two class maps [N, 1, H, W] slice by slice.

    Yields:
        For each slice its classes: the number of expected pixels, and the Dice, by the value of the class.
    """
    dice = compute_dice(predicted, expected, include_background=False, ignore_empty=False, num_classes=num_classes)
    for predicted_slice, expected_slice, class_dice in zip(predicted, expected, dice.tolist(), strict=True):
        sizes = {value: int((expected_slice == value).sum()) for value in range(1, num_classes)}
        yield {
            value: (size, class_dice[value - 1])
            for value, size in sizes.items()
            if size or bool((predicted_slice == value).any())
        }


def by_size(reconstructions: Sequence[Reconstruction]) -> list[SizeBin]:
    """Return a :class:`SizeBin` for each of :data:`SIZES` that contains slices of ``reconstructions`` without noise."""
    slices = [row for row in reconstructions if row.slice is not None and row.size and not row.noise]
    bins = np.digitize([row.size for row in slices], SIZES)
    dice = np.array([row.dice for row in slices])
    return [
        SizeBin(
            smallest=SIZES[index - 1],
            count=int((bins == index).sum()),
            dice=float(dice[bins == index].mean()),
            worst=float(dice[bins == index].min()),
        )
        for index in np.unique(bins)
    ]


def summarise_audit(reconstructions: Sequence[Reconstruction]) -> dict[str, Any]:
    """Summarise an audit for each class: over the cases, and by the size of the class in a slice.

    Returns:
        A dictionary for JSON. For each class, ``dice`` is the mean over the cases, and ``strays`` the number of pixels
        far from the class, see :class:`Reconstruction`; both also for each noise of ``latent_noise``. ``lost`` is the
        number of slices in which no pixel of the class was reconstructed in its place; ``largest_lost`` and
        ``smallest_kept`` are sizes in pixels on the network's grid, or None; ``invented`` is the number of slices in
        which the class is only in the reconstruction.
    """
    classes = {}
    for label in sorted({row.label for row in reconstructions}):
        rows = [row for row in reconstructions if row.label == label]
        exact_rows = [row for row in rows if not row.noise]
        slices = [row for row in exact_rows if row.slice is not None and row.size]
        lost_sizes = [row.size for row in slices if row.dice == 0]
        classes[label] = {
            **_summarise_cases(exact_rows),
            "latent_noise": [
                {"noise": level, **_summarise_cases([row for row in rows if row.noise == level])}
                for level in sorted({row.noise for row in rows} - {0})
            ],
            "slices": len(slices),
            "lost": len(lost_sizes),
            "largest_lost": max(lost_sizes, default=None),
            "smallest_kept": min((row.size for row in slices if row.dice > 0), default=None),
            "invented": sum(row.slice is not None and not row.size for row in exact_rows),
            "by_size": [
                {"pixels_from": b.smallest, "slices": b.count, "dice": round(b.dice, 6), "worst": round(b.worst, 6)}
                for b in by_size(rows)
            ],
        }
    return {"cases": len({row.case for row in reconstructions}), "classes": classes}


def _summarise_cases(rows: Sequence[Reconstruction]) -> dict[str, Any]:
    """Summarise the whole cases among the records of a class that have the same noise."""
    all_cases = [row for row in rows if row.slice is None]
    cases = [row for row in all_cases if row.size]
    return {
        "cases": len(cases),
        "dice": round(float(np.mean([row.dice for row in cases])), 6) if cases else None,
        "worst_dice": round(min(row.dice for row in cases), 6) if cases else None,
        "worst_case": min(cases, key=lambda row: row.dice).case if cases else None,
        "strays": sum(row.strays for row in all_cases),
    }


def loss_warnings(reconstructions: Sequence[Reconstruction]) -> list[str]:
    """Return a line for each class that was lost in some slices: in how many, and where the largest object was."""
    lines = []
    for label, summary in summarise_audit(reconstructions)["classes"].items():
        if summary["lost"]:
            slices = (row for row in reconstructions if row.label == label and row.slice is not None and not row.noise)
            losses = (row for row in slices if row.size and row.dice == 0)
            largest = max(losses, key=lambda row: row.size)
            smallest = summary["smallest_kept"]
            lines.append(
                f"class {label}: the autoencoder loses it in {summary['lost']} of {summary['slices']} slices, at most "
                f"{largest.size} pixels of it (case {largest.case}, slice {largest.slice}); "
                + ("it keeps none" if smallest is None else f"the smallest that it keeps has {smallest}")
            )
    return lines


def write_audit(path: Path, reconstructions: Sequence[Reconstruction]) -> None:
    """Write a CSV file with a row for each of ``reconstructions``; ``slice`` is empty for a whole case.

    Raises:
        InputError: the folder cannot be written.
    """
    rows = [[r.case, r.slice, r.label, f"{r.noise:g}", r.size, r.dice, r.strays] for r in reconstructions]
    write_table(path, [["case", "slice", "class", "latent_noise", "size", "dice", "strays"], *rows])
