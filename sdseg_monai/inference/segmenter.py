"""A bundle ready to segment."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.transforms import AsDiscreted, Compose
from monai.utils import MetaKeys

from sdseg_monai.bundle import DEFAULT_BUNDLE, Bundle, config_errors
from sdseg_monai.errors import InputError, unwrapped_input_errors
from sdseg_monai.inference.results import SegmentationResult
from sdseg_monai.io.dicom import Series
from sdseg_monai.io.segments import PHOTOGRAPHS, Segment
from sdseg_monai.io.sources import ImageLike, Source, is_photograph, load_source, open_source, source_name
from sdseg_monai.networks.codes import score_margin
from sdseg_monai.networks.device import checked_device
from sdseg_monai.transforms import SaveMaskd
from sdseg_monai.transforms.volumes import mask_to_array
from sdseg_monai.weights import load_weights

logger = logging.getLogger(__name__)

CONFIG_KEYS = ("checkpoint", "device", "network", "inferer", "preprocessing", "postprocessing")


class Segmenter:
    """A bundle's network with the bundle's own transforms and inferer: the same result wherever it is run.

    Args:
        bundle: name of a shipped bundle, a bundle's folder or a zip file of it. Its configs are code, as MONAI says:
            load only what you trust.
        device: torch device; None for what the bundle chooses (CUDA where there is some).
        seed: seed of the start noise, where the network has some; None for the bundle's.
        batch_size: slices per forward pass; None for the bundle's.
        weights: file to load instead of the bundle's own, the same network's.
        overlays: configs to chain after the bundle's ``inference.json``; code, like the bundle's own.

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
        self,
        bundle: str | Path = DEFAULT_BUNDLE,
        *,
        device: str | None = None,
        seed: int | None = None,
        batch_size: int | None = None,
        weights: Path | None = None,
        overlays: Sequence[Path] = (),
    ) -> None:
        opened = Bundle.open(bundle)
        self.config = opened.config_file("inference")
        with config_errors(self.config):
            self._build(opened, overlays, device, weights)
        self.segments, self.modality = _read_metadata(opened, self.num_classes, changed=bool(overlays))
        self._own = (getattr(self.network, "seed", 0), self.inferer.seed, self.inferer.batch_size)
        self.configure(seed=seed, batch_size=batch_size)

    def configure(self, *, seed: int | None = None, batch_size: int | None = None) -> None:
        """Set the seed of the start noise and the slices per forward pass; None for the bundle's."""
        network_seed, inferer_seed, own_batch_size = self._own
        self.network.seed = network_seed if seed is None else seed
        self.inferer.seed = inferer_seed if seed is None else seed
        self.inferer.batch_size = own_batch_size if batch_size is None else batch_size

    def _build(self, bundle: Bundle, overlays: Sequence[Path], device: str | None, weights: Path | None) -> None:
        parser = bundle.config("inference", overlays)
        if device is not None:
            parser["device"] = checked_device(device)
        missing = [key for key in CONFIG_KEYS if key not in parser]
        if missing:
            raise InputError(f"{self.config}: no {', '.join(missing)}, expected a bundle of this kind")
        if weights is None:
            weights = Path(parser.get_parsed_content("checkpoint"))
            if not weights.is_file():
                raise InputError(
                    f"{weights}: no weights in this bundle; train it first, see {bundle.root / 'docs/README.md'}"
                )
        self.num_classes = int(parser.get_parsed_content("num_classes")) if "num_classes" in parser else 2
        self.device: torch.device = parser.get_parsed_content("device")
        self.network = parser.get_parsed_content("network")
        found = getattr(self.network, "num_classes", self.num_classes)  # a PixelSegmenter does not say
        if found != self.num_classes:
            raise InputError(
                f"{self.config}: its network has {found} classes, num_classes is {self.num_classes}: set the config's "
                f"num_classes to {found}"
            )
        load_weights(self.network, weights)
        self.weights = weights
        self.network.eval()
        self.inferer = parser.get_parsed_content("inferer")
        self.preprocessing: Compose = parser.get_parsed_content("preprocessing")
        steps = list(parser.get_parsed_content("postprocessing").transforms)
        cut = next(i for i, step in enumerate(steps) if isinstance(step, AsDiscreted))
        self.finish_score = Compose(steps[:cut])
        self.finish_mask = Compose([step for step in steps[cut:] if not isinstance(step, SaveMaskd)])

    def segment(self, image: ImageLike) -> SegmentationResult:
        """Segment one image, see :func:`~sdseg_monai.io.sources.open_source`.

        Raises:
            InputError: the image cannot be used.
        """
        item = self.prepare(image)
        return self.finish(item, self.predict(item["image"]))

    def prepare(self, image: ImageLike) -> dict[str, Any]:
        """Read one ``image`` and bring it to the network's orientation and intensities.

        An image of another modality than the bundle's is logged as a warning.

        Returns:
            Under ``image`` a MetaTensor [C, X, Y, Z], float32, which remembers the way back; under ``source`` whence.

        Raises:
            InputError: the image cannot be used.
        """
        source = open_source(image)
        self._warn_modality(source)
        loaded = load_source(source)
        with unwrapped_input_errors():
            item = self.preprocessing({"image": loaded, "source": source})
        if item["image"].min() == item["image"].max():
            logger.warning("%s: all voxels are alike to the network, the mask means nothing", source_name(source))
        return item

    def _warn_modality(self, source: Source) -> None:
        found = "a picture" if is_photograph(source) else "a volume"
        other = is_photograph(source) != (self.modality == PHOTOGRAPHS)
        if isinstance(source, Series):
            found, other = source.modality, source.modality != self.modality
        if self.modality and other:
            logger.warning(
                "%s: %s, but the network knows %s: the mask is not to be trusted",
                source_name(source),
                found,
                self.modality,
            )

    def predict(self, image: torch.Tensor) -> torch.Tensor:
        """Score a prepared ``image`` [C, X, Y, Z].

        Returns:
            Score in [0, 1], float32, on the CPU: of two classes the foreground's, [1, X, Y, Z], of more one each,
            [K, X, Y, Z].
        """
        with torch.inference_mode():
            return self.inferer(image[None].to(self.device), self.network)[0].cpu()

    def finish(self, item: Mapping[str, Any], score: torch.Tensor) -> SegmentationResult:
        """Take a ``score`` of the prepared ``item`` back to the grid of its image, and decide the classes there.

        Args:
            item: of :meth:`prepare`.
            score: of :meth:`predict`.
        """
        done = self.finish_score({**item, "pred": score})
        on_grid = done["pred"].as_subclass(torch.Tensor).float()
        confidence = score_margin(on_grid[None])[0, 0].numpy()
        foreground = on_grid if len(on_grid) == 1 else on_grid[1:]
        return SegmentationResult(
            labels=mask_to_array(self.finish_mask(done)["pred"]),
            scores=foreground.numpy(),
            confidence=confidence,
            affine=item["image"].meta[MetaKeys.ORIGINAL_AFFINE].numpy(),
            segments=self.segments,
            source=item["source"],
        )


def _read_metadata(bundle: Bundle, num_classes: int, changed: bool) -> tuple[dict[int, Segment], str]:
    """Return segments and modality; what overlays have changed, the metadata may not know."""
    if not bundle.config_file("metadata").is_file():
        return {}, ""
    segments, modality = bundle.segments, "" if changed else bundle.modality
    return segments if len(segments) == num_classes - 1 else {}, modality
