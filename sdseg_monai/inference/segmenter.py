"""One model: the network of a bundle with its transforms and its inferer."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.inferers import Inferer
from monai.transforms import AsDiscreted, Compose, Invertd, Transform
from monai.utils import MetaKeys, convert_to_dst_type
from torch import nn

from sdseg_monai.bundle import DEFAULT_BUNDLE, Bundle, config_errors, read_part, read_path
from sdseg_monai.errors import InputError
from sdseg_monai.inference.options import ModelOptions, as_paths
from sdseg_monai.io.dicom import Series
from sdseg_monai.io.memory import check_memory, cleaning_bytes, segmenting_bytes
from sdseg_monai.io.segments import OTHER_MODALITY, PHOTOGRAPHS, Segment
from sdseg_monai.io.sources import Source, is_photograph, load_source, short_name, source_warnings
from sdseg_monai.io.volumes import Volume
from sdseg_monai.io.warnings import ImageWarning, ImageWarnings, LoggedWarnings
from sdseg_monai.networks.codes import classes_from_score
from sdseg_monai.networks.device import checked_device
from sdseg_monai.transforms import SaveMaskd
from sdseg_monai.transforms.steps import apply_steps, step_errors
from sdseg_monai.transforms.streaming import can_stream, stream
from sdseg_monai.transforms.volumes import mask_to_array
from sdseg_monai.weights import load_weights

PREPROCESSING, POSTPROCESSING = "preprocessing", "postprocessing"
CONFIG_KEYS = ("checkpoint", "device", "network", "inferer", PREPROCESSING, POSTPROCESSING)
CHECKED_WITH = ("network", "network_def", "inferer")
REFERENCE = re.compile(r"@(\w+(?:(?:#|::)\w+)*)")  # to another value of a config
# ids of two steps in a config's postprocessing that the segmenter looks for; bundles of 0.4.0 do not have these ids
MASK_FROM_SCORE, SAVE_MASK = "mask_from_score", "save_mask"


class Segmenter:
    """One model: the network of a bundle with its weights, its transforms and its inferer.

    A :class:`sdseg_monai.Pipeline` holds one or several of these; use that to segment images.

    Args:
        bundle: name of a shipped bundle, a bundle's folder or a zip file of it. Its configs are code, as MONAI says;
            see the option ``trust``.
        weights: file of weights of the same network, to load instead of the bundle's own.
        options: see :class:`~sdseg_monai.inference.options.ModelOptions`.

    Attributes:
        bundle: the bundle's folder.
        config: the file ``inference.json`` of the bundle.
        weights: the file of the weights.
        device: torch device of the network.
        network: the network, in evaluation mode.
        inferer: leads from a prepared volume to its scores, slice by slice.
        modality: DICOM's term for the images of the training, or ``RGB``; empty where it is not known.
        num_classes: number of classes, the background included.
        segments: what each value of a mask stands for, without the background; empty where the metadata do not say it.

    Raises:
        InputError: there is no such bundle, overlay or device; or the weights are missing or belong to another network;
            or the config has another number of classes than the network, or code that is not trusted.

    Example:
        >>> from sdseg_monai.inference.segmenter import Segmenter
        >>> segmenter = Segmenter("hippocampus_sdseg", device="cpu")
        >>> segmenter.num_classes, segmenter.modality
        (3, 'MR')
    """

    def __init__(
        self, bundle: str | Path = DEFAULT_BUNDLE, weights: Path | None = None, **options: Unpack[ModelOptions]
    ) -> None:
        self.bundle = files = Bundle.open(bundle, bool(options.get("trust")))
        self.config = files.config_file("inference")
        overlays, device = as_paths("overlays", options.get("overlays", ())), options.get("device")
        with config_errors(self.config):
            parser = files.config("inference", overlays)
        if device is not None:
            parser["device"] = checked_device(device)
        missing_keys = [key for key in CONFIG_KEYS if key not in parser]
        if missing_keys:
            raise InputError(f"{self.config}: no {', '.join(missing_keys)}, expected a bundle of this kind")
        self.inferer = read_part(parser, self.config, "inferer", Inferer)
        self._load_network(parser, files.root, weights)
        self._steps = read_steps(parser, self.config)
        are_images_known = _values_of(parser, PREPROCESSING) == _values_of(files.config("inference"), PREPROCESSING)
        self.segments, self.modality = _read_metadata(files, self.num_classes, are_images_known)
        with config_errors(self.config):
            self._defaults = (getattr(self.network, "seed", 0), self.inferer.seed, self.inferer.batch_size)
        self.configure(seed=options.get("seed"), batch_size=options.get("batch_size"))

    def _load_network(self, parser: ConfigParser, root: Path, weights: Path | None) -> None:
        if weights is None:
            weights = read_path(parser, self.config, "checkpoint")
            if not weights.is_file():
                raise InputError(f"{weights}: no weights in this bundle; train it first, see {root / 'docs/README.md'}")
        self.num_classes = read_part(parser, self.config, "num_classes", int) if "num_classes" in parser else 2
        self.device: torch.device = read_part(parser, self.config, "device")
        self.network = read_part(parser, self.config, "network", nn.Module)
        network_classes = getattr(self.network, "num_classes", self.num_classes)  # a PixelSegmenter has no num_classes
        if network_classes != self.num_classes:
            raise InputError(
                f"{self.config}: its network has {network_classes} classes, num_classes is {self.num_classes}: set the "
                f"config's num_classes to {network_classes}"
            )
        load_weights(self.network, weights, self.inferer)
        self.weights = weights
        self.network.eval()

    def configure(self, *, seed: int | None = None, batch_size: int | None = None) -> None:
        """Change the options ``seed`` and ``batch_size``; None sets the bundle's own value."""
        network_seed, inferer_seed, bundle_batch_size = self._defaults
        self.network.seed = network_seed if seed is None else seed
        self.inferer.seed = inferer_seed if seed is None else seed
        self.inferer.batch_size = bundle_batch_size if batch_size is None else batch_size

    def prepare(self, source: Source, warnings: ImageWarnings | None = None, modality: str = "") -> dict[str, Any]:
        """Read one image, and apply the bundle's preprocessing: orientation and intensities.

        Args:
            source: the image, from :func:`~sdseg_monai.io.sources.open_source`.
            warnings: list for the warnings about the image, which also says whether contradictions are refused; None
                for a new one that refuses them.
            modality: DICOM's term, where it is known and ``source`` does not say it; empty where it is not known.

        Returns:
            A dictionary: ``image`` is [C, X, Y, Z], float32 in [-1, 1]: a
            :class:`~sdseg_monai.transforms.streaming.StreamedVolume` or, of a photograph, or where the bundle's
            transforms need the whole volume, a MetaTensor, which knows how to invert its transforms; ``source`` is the
            source; ``warnings`` is a list of :class:`~sdseg_monai.io.warnings.ImageWarning`, which are logged too.

        Raises:
            InputError: the image cannot be used.
            ArgumentError: it contradicts the training, and ``warnings`` do not allow that.
        """
        warnings = LoggedWarnings(short_name(source)) if warnings is None else warnings
        for warning in (*source_warnings(source), *self._modality_warnings(source, modality)):
            warnings.append(warning)
        if isinstance(source, Path):
            warnings.check()
        image = load_source(source)  # a photograph's file, or a volume: voxels [X, Y, Z] with their affine
        warnings.check()  # after what is wrong with a series, before transforms that cannot use another kind of image
        item: dict[str, Any] = {"image": image, "source": source, "warnings": warnings}
        item = self._stream(item) if isinstance(image, Volume) and self._steps.can_stream else self._prepare(item)
        warnings.check()
        if item["image"].min() == item["image"].max():
            warnings.append(ImageWarning("constant", "all voxels are alike to the network, the mask means nothing"))
        return item

    def _stream(self, item: dict[str, Any]) -> dict[str, Any]:
        with step_errors(self.config, PREPROCESSING):
            image = stream(self._steps.prepare, item["image"], item["warnings"])
        if self._steps.clean.transforms:
            task = "for the cleaning of its mask"
            check_memory(image.shape[1:], short_name(item["source"]), cleaning_bytes(self.num_classes), task)
        return {**item, "image": image}

    def _prepare(self, item: dict[str, Any]) -> dict[str, Any]:
        item = self._apply(self._steps.prepare, item, "image")
        task = f"to be segmented into {self.num_classes} classes"
        num_bytes = segmenting_bytes(self.num_classes)
        check_memory(item["image"].shape[1:], short_name(item["source"]), num_bytes, task)
        return item

    def _modality_warnings(self, source: Source, modality: str) -> list[ImageWarning]:
        modality = source.modality if isinstance(source, Series) else modality
        if not self.modality or modality == self.modality:
            return []
        if modality:
            text, is_known = f"{modality}, but the network knows {self.modality}", self.modality != OTHER_MODALITY
            return [ImageWarning("modality", text, contradiction=is_known)]
        if is_photograph(source) != (self.modality == PHOTOGRAPHS):
            kind = "a picture" if is_photograph(source) else "a volume"
            return [ImageWarning("modality", f"{kind}, but the network knows {self.modality}", contradiction=True)]
        if isinstance(source, Series):
            return [ImageWarning("modality", f"its headers name no modality, the network knows {self.modality}")]
        return []

    def invert(self, item: Mapping[str, Any], values: torch.Tensor) -> dict[str, Any]:
        """Resample a map to the grid of the image's file, by the inverse of the preprocessing.

        Args:
            item: a prepared image, from :meth:`prepare`, or a part of it; its ``image`` is a MetaTensor.
            values: [C, X, Y, Z], float32, on the grid of ``item["image"]``.

        Returns:
            The item with the same map on the file's own grid under ``pred``, [C, X, Y, Z].
        """
        # MONAI's Invertd passes over what is not a MetaTensor, with a warning only
        meta_values = convert_to_dst_type(values, item["image"], dtype=torch.float32, device=values.device)[0]
        return self._apply(self._steps.invert, {**item, "pred": meta_values}, "pred")

    def classify(self, item_on_grid: Mapping[str, Any]) -> np.ndarray:
        """Choose the class of each voxel by the score ``pred`` on the file's grid, of :meth:`invert`; uint8."""
        if self._steps.takes_highest:
            return classes_from_score(item_on_grid["pred"].as_subclass(torch.Tensor)[None])[0, 0].numpy()
        return mask_to_array(self._apply(self._steps.classify, item_on_grid, "pred")["pred"])

    def clean(self, item: Mapping[str, Any], labels: np.ndarray) -> None:
        """Clean the mask of the whole image, ``labels`` [X, Y, Z], in place, where the bundle has steps for that.

        :meth:`prepare` has checked that there is the memory for it.

        Raises:
            InputError: a step cannot be applied.
        """
        if not self._steps.clean.transforms:
            return
        meta = item["image"].meta
        mask = MetaTensor(
            torch.from_numpy(labels)[None].float(), meta={**meta, "affine": meta[MetaKeys.ORIGINAL_AFFINE]}
        )
        labels[...] = mask_to_array(self._apply(self._steps.clean, {**item, "pred": mask}, "pred")["pred"])

    def _apply(self, steps: Transform, item: Mapping[str, Any], key: str) -> dict[str, Any]:
        return apply_steps(steps, item, key, self.config, PREPROCESSING if key == "image" else POSTPROCESSING)


@dataclass(frozen=True)
class Steps:
    """A bundle's transforms of an image and its scores.

    Attributes:
        prepare: from the file to the network's input.
        invert: from scores on the grid of the network's input to scores on that of the file.
        classify: from these to a mask.
        clean: of the mask of the whole image.
        can_stream: whether the first three give the same result slab by slab; where they do not, ``classify`` is all
            that follows ``invert``, and ``clean`` is empty.
        takes_highest: whether ``classify`` is no more than :func:`~sdseg_monai.networks.codes.classes_from_score`.
    """

    prepare: Transform
    invert: Compose
    classify: Compose
    clean: Compose
    can_stream: bool
    takes_highest: bool


def read_steps(parser: ConfigParser, config: Path) -> Steps:
    """Read the transforms of a config.

    The steps of its ``postprocessing`` before the one that chooses a class by the scores (``mask_from_score``) resample
    scores to the file's grid. The one that writes the mask (``save_mask``) is left out. A config of 0.4.0 does not have
    these ids; there the two steps are found by their types.

    Raises:
        InputError: there is no step that chooses a class by the scores, or a mask is written before it.
    """
    prepare = read_part(parser, config, PREPROCESSING, Transform)
    postprocessing = read_part(parser, config, POSTPROCESSING, Transform)
    steps: Sequence[Any] = Compose([postprocessing]).flatten().transforms  # also of a Compose within a Compose
    mask_from_score, save_mask = (
        read_part(parser, config, name, Transform) if name in parser else None for name in (MASK_FROM_SCORE, SAVE_MASK)
    )
    index = next((index for index, step in enumerate(steps) if step is mask_from_score), None)
    if mask_from_score is None:
        index = next((index for index, step in enumerate(steps) if isinstance(step, AsDiscreted)), None)
    if index is None:
        raise InputError(
            f"{config}: its postprocessing has no step {MASK_FROM_SCORE}, expected one that makes classes of scores, "
            "as MONAI's AsDiscreted does"
        )
    step = steps[index]
    invert, classify = Compose(steps[:index]), [step]
    clean = [step for step in steps[index + 1 :] if step is not save_mask and not isinstance(step, SaveMaskd)]
    if any(isinstance(step, SaveMaskd) for step in Compose([prepare, invert]).flatten().transforms):
        # into a folder of the bundle's choice
        raise InputError(f"{config}: writes a file before there is a mask, expected that step at the end")
    is_slabwise = can_stream(prepare) and _inverts_alone(invert, prepare) and _is_of_voxels(step)
    if not is_slabwise:
        classify, clean = [*classify, *clean], []
    takes_highest = is_slabwise and (*step.argmax, *step.threshold, *step.rounding) == (True, None, None)
    return Steps(prepare, invert, Compose(classify), Compose(clean), is_slabwise, takes_highest)


def _inverts_alone(invert: Compose, prepare: Transform) -> bool:
    """Tell whether all that happens to scores is the inverse of the preprocessing."""
    steps = invert.transforms
    return len(steps) == 1 and type(steps[0]) is Invertd and steps[0].transform is prepare


def _is_of_voxels(step: Any) -> bool:
    """Tell whether a step makes a mask of scores voxel by voxel."""
    is_known = type(step) is AsDiscreted and tuple(step.keys) == ("pred",)
    return is_known and tuple(step.to_onehot) == (None,) and not step.converter.kwargs


def _values_of(parser: ConfigParser, name: str) -> dict[str, Any]:
    """Return what a config holds under ``name``, and under all names that this refers to, not evaluated.

    What a check of images looks at, the network and its inferer, does not change how they are prepared.
    """
    values: dict[str, Any] = {}
    names = [name]
    while names:
        name = names.pop()
        if name not in values and name in parser and name not in CHECKED_WITH:
            values[name] = parser[name]
            names += REFERENCE.findall(json.dumps(values[name], default=str))
    return values


def _read_metadata(bundle: Bundle, num_classes: int, are_images_known: bool) -> tuple[dict[int, Segment], str]:
    """Return segments and modality of the metadata; no modality where overlays change how images are prepared."""
    if not bundle.config_file("metadata").is_file():
        return {}, ""
    segments, modality = bundle.segments, bundle.modality if are_images_known else ""
    return segments if len(segments) == num_classes - 1 else {}, modality
