"""A bundle's network with the bundle's own transforms and inferer."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack

import torch
from monai.bundle import ConfigParser
from monai.transforms import AsDiscreted, Compose
from monai.utils import MetaKeys

from sdseg_monai.bundle import DEFAULT_BUNDLE, Bundle, config_errors
from sdseg_monai.errors import InputError, unwrapped_input_errors
from sdseg_monai.inference.options import ModelOptions, as_paths
from sdseg_monai.inference.results import SegmentationResult
from sdseg_monai.io.dicom import Series
from sdseg_monai.io.segments import PHOTOGRAPHS, Segment
from sdseg_monai.io.sources import Source, is_photograph, load_source, short_name, source_warnings
from sdseg_monai.io.warnings import ImageWarning
from sdseg_monai.networks.codes import score_margin
from sdseg_monai.networks.device import checked_device
from sdseg_monai.transforms import SaveMaskd
from sdseg_monai.transforms.volumes import mask_to_array
from sdseg_monai.weights import load_weights

logger = logging.getLogger(__name__)

CONFIG_KEYS = ("checkpoint", "device", "network", "inferer", "preprocessing", "postprocessing")
# ids of the steps of a config's postprocessing that must be known one by one; bundles of 0.4.0 do not name them
MASK_FROM_SCORE, SAVE_MASK = "mask_from_score", "save_mask"


class Segmenter:
    """A bundle's network with the bundle's own transforms and inferer: the same result wherever it is run.

    Args:
        bundle: name of a shipped bundle, a bundle's folder or a zip file of it. Its configs are code, as MONAI says:
            load only what you trust.
        weights: file to load instead of the bundle's own, the same network's.
        options: see :class:`~sdseg_monai.inference.options.ModelOptions`.

    Attributes:
        config: the bundle's ``inference.json``.
        weights: the file that was loaded.
        modality: of the images that the network knows, empty where that is not known.
        num_classes: values of a mask, 0 for the background included.
        segments: what these stand for, as far as the bundle's metadata says; the background is left out.

    Raises:
        InputError: there is no such bundle, overlay or device, the bundle has no weights of its network, or that has
            another number of classes than the config.
    """

    def __init__(
        self, bundle: str | Path = DEFAULT_BUNDLE, weights: Path | None = None, **options: Unpack[ModelOptions]
    ) -> None:
        opened = Bundle.open(bundle)
        self.config = opened.config_file("inference")
        overlays, device = as_paths("overlays", options.get("overlays", ())), options.get("device")
        with config_errors(self.config):
            parser = opened.config("inference", overlays)
            if device is not None:
                parser["device"] = checked_device(device)
            missing = [key for key in CONFIG_KEYS if key not in parser]
            if missing:
                raise InputError(f"{self.config}: no {', '.join(missing)}, expected a bundle of this kind")
            self._load_network(parser, opened.root, weights)
            self.inferer = parser.get_parsed_content("inferer")
            self.preprocessing: Compose = parser.get_parsed_content("preprocessing")
            self._inverse, self._classify = split_postprocessing(parser, self.config)
        self.segments, self.modality = _read_metadata(opened, self.num_classes, changed=bool(overlays))
        self._defaults = (getattr(self.network, "seed", 0), self.inferer.seed, self.inferer.batch_size)
        self.configure(seed=options.get("seed"), batch_size=options.get("batch_size"))

    def _load_network(self, parser: ConfigParser, root: Path, weights: Path | None) -> None:
        if weights is None:
            weights = Path(parser.get_parsed_content("checkpoint"))
            if not weights.is_file():
                raise InputError(f"{weights}: no weights in this bundle; train it first, see {root / 'docs/README.md'}")
        self.num_classes = int(parser.get_parsed_content("num_classes")) if "num_classes" in parser else 2
        self.device: torch.device = parser.get_parsed_content("device")
        self.network = parser.get_parsed_content("network")
        network_classes = getattr(self.network, "num_classes", self.num_classes)  # a PixelSegmenter does not say
        if network_classes != self.num_classes:
            raise InputError(
                f"{self.config}: its network has {network_classes} classes, num_classes is {self.num_classes}: set the "
                f"config's num_classes to {network_classes}"
            )
        load_weights(self.network, weights)
        self.weights = weights
        self.network.eval()

    def configure(self, *, seed: int | None = None, batch_size: int | None = None) -> None:
        """Set the seed of the start noise and the slices per forward pass; None for the bundle's."""
        network_seed, inferer_seed, own_batch_size = self._defaults
        self.network.seed = network_seed if seed is None else seed
        self.inferer.seed = inferer_seed if seed is None else seed
        self.inferer.batch_size = own_batch_size if batch_size is None else batch_size

    def prepare(self, source: Source) -> dict[str, Any]:
        """Read one image and bring it to the network's orientation and intensities.

        Returns:
            Under ``image`` a MetaTensor [C, X, Y, Z], float32, which remembers the way back; under ``source`` whence;
            under ``warnings`` a list of :class:`~sdseg_monai.io.warnings.ImageWarning`, which were logged as well.

        Raises:
            InputError: the image cannot be used.
        """
        warnings = _LoggedWarnings(short_name(source))
        for warning in (*source_warnings(source), *self._modality_warnings(source)):
            warnings.append(warning)
        loaded = load_source(source)  # a file, or voxels [X, Y, Z] with their affine
        with unwrapped_input_errors():
            item = self.preprocessing({"image": loaded, "source": source, "warnings": warnings})
        if item["image"].min() == item["image"].max():
            warnings.append(ImageWarning("constant", "all voxels are alike to the network, the mask means nothing"))
        return item

    def _modality_warnings(self, source: Source) -> list[ImageWarning]:
        if isinstance(source, Series):
            modality, is_other = source.modality, source.modality != self.modality
        else:
            modality = "a picture" if is_photograph(source) else "a volume"
            is_other = is_photograph(source) != (self.modality == PHOTOGRAPHS)
        if not (self.modality and is_other):
            return []
        text = f"{modality}, but the network knows {self.modality}: the mask is not to be trusted"
        return [ImageWarning("modality", text)]

    def invert(self, item: Mapping[str, Any], values: torch.Tensor) -> torch.Tensor:
        """Take ``values`` [C, X, Y, Z] of a prepared ``item`` back to the grid of its image, [C, X, Y, Z], float32."""
        return self._inverted(item, values)["pred"].as_subclass(torch.Tensor).float()

    def _inverted(self, item: Mapping[str, Any], values: torch.Tensor) -> dict[str, Any]:
        return self._inverse({**item, "pred": values})

    def finish(self, item: Mapping[str, Any], score: torch.Tensor) -> SegmentationResult:
        """Take a ``score`` of a prepared ``item`` back to the grid of its image, and decide the classes there.

        Args:
            item: of :meth:`prepare`.
            score: in [0, 1], float32, on the CPU: of two classes the foreground's, [1, X, Y, Z], of more one each,
                [K, X, Y, Z].
        """
        inverted = self._inverted(item, score)
        on_grid = inverted["pred"].as_subclass(torch.Tensor).float()  # [K, X, Y, Z] of the image's own grid
        confidence = score_margin(on_grid[None])[0, 0].numpy()
        foreground = on_grid if len(on_grid) == 1 else on_grid[1:]
        return SegmentationResult(
            labels=mask_to_array(self._classify(inverted)["pred"]),
            scores=foreground.numpy(),
            confidence=confidence,
            affine=item["image"].meta[MetaKeys.ORIGINAL_AFFINE].numpy(),
            segments=self.segments,
            source=item["source"],
            warnings=list(item["warnings"]),
        )


def split_postprocessing(parser: ConfigParser, config: Path) -> tuple[Compose, Compose]:
    """Return the steps of a config's ``postprocessing`` that lead back to the image's grid, and those that follow.

    The second begin with the step that makes classes of scores, ``mask_from_score``, and leave out ``save_mask``.
    Where a config does not name these, as those of 0.4.0, they are known by their types.

    Raises:
        InputError: there is no step that makes classes of scores.
    """
    postprocessing = parser.get_parsed_content("postprocessing")
    steps: Sequence[Any] = Compose([postprocessing]).flatten().transforms  # of a Compose in a Compose too
    mask_from_score, save_mask = (
        parser.get_parsed_content(name) if name in parser else None for name in (MASK_FROM_SCORE, SAVE_MASK)
    )
    for index, step in enumerate(steps):
        if step is mask_from_score or (mask_from_score is None and isinstance(step, AsDiscreted)):
            classify = [step for step in steps[index:] if step is not save_mask and not isinstance(step, SaveMaskd)]
            return Compose(steps[:index]), Compose(classify)
    raise InputError(
        f"{config}: its postprocessing has no step {MASK_FROM_SCORE}, expected one that makes classes of scores, as "
        "MONAI's AsDiscreted does"
    )


class _LoggedWarnings(list[ImageWarning]):
    """The warnings about one image; each is logged as it comes, under the image's name."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def append(self, warning: ImageWarning) -> None:
        super().append(warning)
        logger.warning("%s: %s", self.name, warning.text)


def _read_metadata(bundle: Bundle, num_classes: int, changed: bool) -> tuple[dict[int, Segment], str]:
    """Return segments and modality; what overlays have changed, the metadata may not know."""
    if not bundle.config_file("metadata").is_file():
        return {}, ""
    segments, modality = bundle.segments, "" if changed else bundle.modality
    return segments if len(segments) == num_classes - 1 else {}, modality
