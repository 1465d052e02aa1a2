"""Bundles as inference sees them: where they are, and one of them ready to segment volume files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.transforms import AsDiscreted, Compose
from monai.utils import MetaKeys

from sdseg_monai.errors import InputError, find_input_error, root_cause, unwrapped_input_errors
from sdseg_monai.io import hash_file, voxel_millilitres, write_volume
from sdseg_monai.networks.codes import score_margin
from sdseg_monai.segments import UNSURE, Segment, read_modality, read_segments
from sdseg_monai.transforms import SaveMaskd
from sdseg_monai.transforms.volumes import mask_to_array
from sdseg_monai.weights import load_weights

DEFAULT_BUNDLE = "hippocampus_sdseg"
METADATA = Path("configs", "metadata.json")  # in a bundle's folder
CONFIG_KEYS = ("checkpoint", "device", "network", "inferer", "preprocessing", "postprocessing")


@dataclass(frozen=True)
class Segmentation:
    """The result for one volume, on its own grid.

    Attributes:
        mask: class of each voxel, [X, Y, Z], uint8.
        scores: of each class but the background, [C, X, Y, Z], float32 in [0, 1].
        confidence: how sure the class is, [X, Y, Z], float32 in [0, 1], see
            :func:`~sdseg_monai.networks.codes.score_margin`.
        voxel_ml: volume of a voxel in ml.
    """

    mask: np.ndarray
    scores: np.ndarray
    confidence: np.ndarray
    voxel_ml: float

    @property
    def volumes(self) -> np.ndarray:
        """Volume of each class but the background in the mask, [C], float64, in ml."""
        end = len(self.scores) + 1  # beyond lies what was abstained from
        return np.bincount(self.mask.ravel(), minlength=end)[1:end] * self.voxel_ml

    def abstain(self, below: float) -> Self:
        """Return the same with :data:`UNSURE` in the mask where the confidence, in [0, 1], lies below ``below``."""
        return replace(self, mask=np.where(self.confidence < below, np.uint8(UNSURE), self.mask))

    @property
    def maps(self) -> dict[str, np.ndarray]:
        """What can be written beside the mask, [X, Y, Z] each, by name: the :func:`score_names` and ``confidence``."""
        return {**dict(zip(score_names(len(self.scores)), self.scores, strict=True)), "confidence": self.confidence}

    def write(self, path: Path, output: Path, maps: Mapping[str, Path]) -> None:
        """Write the mask to ``output``, and those of :attr:`maps` that are named, on the grid of the file ``path``.

        Raises:
            InputError: the output cannot be written.
        """
        for name, target in maps.items():  # first: a mask is the sign that a case is done
            write_volume(target, self.maps[name], path)
        write_volume(output, self.mask, path)


def score_names(count: int) -> list[str]:
    """Return what the scores of so many classes are called: ``score`` alone, or ``score_1``, ``score_2`` and so on."""
    return ["score"] if count == 1 else [f"score_{value}" for value in range(1, count + 1)]


def bundles_dir() -> Path:
    """Return the folder of the shipped bundles: inside the installed package, or beside it in a clone."""
    package = Path(__file__).parent
    installed = package / "bundles"
    return installed if installed.is_dir() else package.parent / "bundles"


def shipped_bundles() -> list[str]:
    """Return the names of the bundles that come with the package, with weights or without."""
    return sorted(p.name for p in bundles_dir().iterdir() if (p / "configs").is_dir())


def find_bundle(name_or_dir: str | Path) -> Path:
    """Return a bundle's folder, given that or the name of a shipped bundle.

    Raises:
        InputError: there is neither, or it has no ``configs/inference.json``.
    """
    shipped = bundles_dir() / name_or_dir
    is_name = Path(name_or_dir).name == str(name_or_dir)  # a folder of a shipped bundle's name is called ./NAME
    root = shipped if is_name and shipped.is_dir() else Path(name_or_dir)
    if not root.is_dir():
        names = ", ".join(shipped_bundles())
        raise InputError(f"{name_or_dir}: no bundle of that name and no such folder, expected {names} or a folder")
    if not (root / "configs" / "inference.json").is_file():
        raise InputError(f"{root}: no configs/inference.json there, expected a bundle's folder")
    return root


def bundle_weights(root: Path) -> Path | None:
    """Return the file of the weights of the bundle in ``root``, None where it has none.

    Raises:
        InputError: its config does not say.
    """
    config = root / "configs" / "inference.json"
    with config_errors(config):
        weights = Path(read_config(config, root).get_parsed_content("checkpoint"))
    return weights if weights.is_file() else None


@contextmanager
def bundle_metadata(root: Path) -> Iterator[dict[str, Any]]:
    """Read the metadata of the bundle in ``root``; what they lack while they are used is an :class:`InputError`."""
    path = root / METADATA
    with config_errors(path):
        yield json.loads(path.read_text())


def describe_bundle(name_or_dir: str | Path) -> dict[str, Any]:
    """Return what a bundle says of itself: what it segments in what, its weights (None without), whose it is.

    Raises:
        InputError: there is no such bundle, or its metadata or config do not say.
    """
    root = find_bundle(name_or_dir)
    with bundle_metadata(root) as metadata:
        segments = read_segments(metadata)
        description = {name: metadata[name] for name in ("version", "task", "intended_use", "copyright", "data_source")}
        modality = read_modality(metadata)
    weights = bundle_weights(root)
    return {
        "folder": str(root),
        **description,
        "modality": modality,
        "labels": {segment.name: value for value, segment in segments.items()},
        "weights": None if weights is None else {"file": str(weights), "sha256": hash_file(weights)},
    }


def read_config(config: Path, root: Path, overlays: Sequence[Path] = ()) -> ConfigParser:
    """Return the parsed ``config`` of the bundle in ``root``, with ``overlays`` chained after it, later ones winning.

    Raises:
        InputError: an overlay is missing or no config, or changes what the configs before it do not have.
    """
    parser = ConfigParser()
    parser.read_config(config)
    chain = [config]
    for overlay in overlays:
        if not overlay.is_file():
            raise InputError(f"{overlay}: no such file, expected an overlay for {config}")
        chain.append(overlay)
        try:
            parser.read_config(chain)
        except Exception as error:  # as many as there are ways to spoil JSON or YAML
            raise InputError(f"{overlay}: cannot be chained after {config} ({error!r}), expected an overlay") from error
    parser["bundle_root"] = str(root)
    return parser


@contextmanager
def config_errors(config: Path) -> Iterator[None]:
    """Turn what a bundle's config raises while it is used into an :class:`InputError` that names it."""
    try:
        yield
    except Exception as error:  # a config is a program: it fails in as many ways
        input_error = find_input_error(error)
        if input_error is not None:
            raise input_error from error
        raise InputError(f"{config}: cannot be used ({root_cause(error)!r}), expected a bundle of this kind") from error


class Segmenter:
    """A bundle's network with the bundle's own transforms and inferer: the same result wherever it is run.

    Args:
        bundle: name of a shipped bundle, or a bundle's folder. Its configs are code, as MONAI says: load only what
            you trust.
        device: torch device; None for what the bundle chooses (CUDA where there is some).
        seed: seed of the start noise, where the network has some; None for the bundle's.
        batch_size: slices per forward pass; None for the bundle's.
        weights: file to load instead of the bundle's own, the same network's.
        overlays: configs to chain after the bundle's ``inference.json``; code, like the bundle's own.

    Attributes:
        weights: the file that was loaded.
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
        root = find_bundle(bundle)
        config = root / "configs" / "inference.json"
        with config_errors(config):
            self._build(config, root, overlays, device, weights)
        self.segments = _read_segments(root, self.num_classes)
        self._own = (getattr(self.network, "seed", 0), self.inferer.seed, self.inferer.batch_size)
        self.configure(seed=seed, batch_size=batch_size)

    def configure(self, *, seed: int | None = None, batch_size: int | None = None) -> None:
        """Set the seed of the start noise and the slices per forward pass; None for the bundle's."""
        network_seed, inferer_seed, own_batch_size = self._own
        self.network.seed = network_seed if seed is None else seed
        self.inferer.seed = inferer_seed if seed is None else seed
        self.inferer.batch_size = own_batch_size if batch_size is None else batch_size

    def _build(
        self, config: Path, root: Path, overlays: Sequence[Path], device: str | None, weights: Path | None
    ) -> None:
        parser = read_config(config, root, overlays)
        if device is not None:
            parser["device"] = checked_device(device)
        missing = [key for key in CONFIG_KEYS if key not in parser]
        if missing:
            raise InputError(f"{config}: no {', '.join(missing)}, expected a bundle of this kind")
        if weights is None:
            weights = Path(parser.get_parsed_content("checkpoint"))
            if not weights.is_file():
                raise InputError(f"{weights}: no weights in this bundle; train it first, see {root / 'docs/README.md'}")
        self.num_classes = int(parser.get_parsed_content("num_classes")) if "num_classes" in parser else 2
        self.device: torch.device = parser.get_parsed_content("device")
        self.network = parser.get_parsed_content("network")
        found = getattr(self.network, "num_classes", self.num_classes)  # a PixelSegmenter does not say
        if found != self.num_classes:
            raise InputError(
                f"{config}: its network has {found} classes, num_classes is {self.num_classes}: set the config's "
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

    def segment(self, path: Path, abstain_below: float | None = None) -> Segmentation:
        """Segment the volume file ``path``; with a number, :meth:`Segmentation.abstain` below that confidence.

        Raises:
            InputError: the file cannot be used.
        """
        item = self.prepare(path)
        result = self.finish(item, self.predict(item["image"]))
        return result if abstain_below is None else result.abstain(abstain_below)

    def prepare(self, path: Path) -> dict[str, Any]:
        """Read the volume file ``path`` and bring it to the network's orientation and intensities.

        Returns:
            Under ``image`` a MetaTensor [C, X, Y, Z], float32, which remembers the way back.

        Raises:
            InputError: the file cannot be used.
        """
        with unwrapped_input_errors():
            return self.preprocessing({"image": str(path)})

    def predict(self, image: torch.Tensor) -> torch.Tensor:
        """Score a prepared ``image`` [C, X, Y, Z].

        Returns:
            Score in [0, 1], float32, on the CPU: of two classes the foreground's, [1, X, Y, Z], of more one each,
            [K, X, Y, Z].
        """
        with torch.inference_mode():
            return self.inferer(image[None].to(self.device), self.network)[0].cpu()

    def finish(self, item: Mapping[str, Any], score: torch.Tensor) -> Segmentation:
        """Take a ``score`` of the prepared ``item`` back to the grid of its file, and decide the classes there.

        Args:
            item: of :meth:`prepare`.
            score: of :meth:`predict`.
        """
        done = self.finish_score({**item, "pred": score})
        on_grid = done["pred"].as_subclass(torch.Tensor).float()
        confidence = score_margin(on_grid[None])[0, 0].numpy()
        foreground = on_grid if len(on_grid) == 1 else on_grid[1:]
        mask = mask_to_array(self.finish_mask(done)["pred"])
        voxel_ml = voxel_millilitres(item["image"].meta[MetaKeys.ORIGINAL_AFFINE])
        return Segmentation(mask, foreground.numpy(), confidence, voxel_ml)

    def segment_file(
        self, path: Path, output: Path, maps: Mapping[str, Path] | None = None, abstain_below: float | None = None
    ) -> Segmentation:
        """Segment ``path`` and write the mask, and those of :attr:`Segmentation.maps` that are named, on its grid.

        Args:
            path: volume file.
            output: the mask's file.
            maps: files of maps, by name.
            abstain_below: as of :meth:`segment`.

        Raises:
            InputError: the file cannot be used or the output not be written.
        """
        result = self.segment(path, abstain_below)
        result.write(path, output, maps or {})
        return result


def _read_segments(root: Path, num_classes: int) -> dict[int, Segment]:
    if not (root / METADATA).is_file():
        return {}
    with bundle_metadata(root) as metadata:
        segments = read_segments(metadata)
    # an overlay may have other classes than the metadata, which then does not know them
    return segments if len(segments) == num_classes - 1 else {}


def checked_device(name: str) -> torch.device:
    """Return the device of that name, on which a tensor could be made.

    Raises:
        InputError: it cannot be used here.
    """
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, ValueError, NotImplementedError, ImportError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"device {name!r} cannot be used ({reason}), expected cpu, or cuda where there is some"
        ) from error
    return device
