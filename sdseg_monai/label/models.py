"""The bundles that a server offers, and which of their weights are in service."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from sdseg_monai.bundle import Bundle, config_errors, read_path, shipped_bundles
from sdseg_monai.errors import InputError
from sdseg_monai.inference.pipeline import Pipeline
from sdseg_monai.io.segments import PHOTOGRAPHS

Signal = Literal["flips", "seeds"]  # the kinds of uncertainty that need a single model, see Options.uncertainty


@dataclass(frozen=True)
class ServedModel:
    """A bundle and a folder for its fine-tuned weights; the bundle itself is never changed.

    Attributes:
        bundle: with an absolute path as its root.
        work_dir: folder for this model's fine-tuned weights and training runs.
    """

    bundle: Bundle
    work_dir: Path

    @classmethod
    def open(cls, bundle: str | Path, work_dir: Path) -> ServedModel:
        """Open the bundle of that name or folder; its fine-tuned weights go into a folder of its name in ``work_dir``.

        Raises:
            InputError: there is no such bundle, or its metadata cannot be used.
        """
        root = Bundle.open(bundle).root.resolve()
        if not re.fullmatch(r"[\w.-]+", root.name):
            raise InputError(f"{root}: its name becomes part of URLs, expected letters, digits, '_', '-' and '.'")
        model = cls(Bundle(root), work_dir / root.name)
        for name in ("segments", "modality", "description", "version"):
            getattr(model.bundle, name)  # raises here, not later to a viewer that asks for it
        return model

    @property
    def name(self) -> str:
        """The name of the bundle's folder; it is part of URLs."""
        return self.bundle.name

    @property
    def colours(self) -> dict[str, list[int]]:
        """Red, green and blue, 0 to 255, by the names of the segments."""
        return {segment.name: list(segment.colour) for segment in self.bundle.segments.values()}

    @property
    def tuned_weights(self) -> Path:
        """The file for the weights of the last fine-tuning; it is missing where there was none."""
        return self.work_dir / "model.pt"

    @property
    def own_weights(self) -> Path | None:
        """The file of the bundle's weights, which its config may compute; None where it is missing.

        Raises:
            InputError: the config does not say where the weights are.
        """
        config = self.bundle.config_file("inference")
        with config_errors(config):
            file = read_path(self.bundle.config("inference"), config, "checkpoint")
        return file if file.is_file() else None

    @property
    def weights(self) -> Path | None:
        """The file of the weights in service: the fine-tuned ones, else the bundle's; None where there are none."""
        return self.tuned_weights if self.tuned_weights.is_file() else self.own_weights

    @property
    def signals(self) -> list[Signal]:
        """The kinds of uncertainty of this model: flips, and seeds where it starts from noise."""
        network = self.bundle.config("inference")["network_def"]
        starts_from_noise = network["_target_"].endswith(".SDSeg") and network.get("start_noise", "shared") != "zeros"
        return [signal for signal in get_args(Signal) if signal != "seeds" or starts_from_noise]

    def chosen_weights(self, choice: str | None) -> Path:
        """Return the file of the weights in service, or of the bundle's for the choice ``original``.

        Raises:
            InputError: there are no weights.
        """
        weights = self.own_weights if choice == "original" else self.weights
        if weights is None:
            raise InputError(f"{self.bundle.root}: this bundle has no weights; train it first")
        return weights

    def pipeline(self, choice: str | None = None, **options: Any) -> Pipeline:
        """Build the model with the weights of :meth:`chosen_weights`, loaded strictly.

        Args:
            choice: of the weights, see :meth:`chosen_weights`.
            options: others of :class:`~sdseg_monai.inference.options.Options`.

        Raises:
            InputError: there are no weights, they do not fit the network, or an option cannot be used.
        """
        return Pipeline(self.bundle.root, weights=self.chosen_weights(choice), **options)


def open_models(bundles: Sequence[str | Path], work_dir: Path) -> dict[str, ServedModel]:
    """Return the models of ``bundles``, or of every installed bundle where none is named.

    An installed bundle without weights, or for photographs, which the label server does not hold, is left out; one
    that was named is an error.

    Raises:
        InputError: a named bundle cannot be served, two have the same name, or there is nothing to serve.
    """
    models: dict[str, ServedModel] = {}
    for bundle in bundles or shipped_bundles():
        model = ServedModel.open(bundle, work_dir)
        if model.weights is None:
            if bundles:
                raise InputError(f"{model.bundle.root}: this bundle has no weights to serve; train it first")
            continue
        if model.bundle.modality == PHOTOGRAPHS:
            if bundles:
                raise InputError(f"{model.bundle.root}: segments photographs, the label server holds volumes")
            continue
        if model.name in models:
            roots = f"{model.bundle.root} and {models[model.name].bundle.root}"
            raise InputError(f"{roots}: two bundles of one name, rename a folder")
        models[model.name] = model
    if not models:
        raise InputError("no installed bundle has weights, name the folder of one that has")
    return models
