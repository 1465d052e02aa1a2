"""The bundles that a server offers, with what their metadata says of labels and which weights are in service."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from sdseg_monai.bundle import Bundle, shipped_bundles
from sdseg_monai.errors import InputError
from sdseg_monai.inference.pipeline import Pipeline

Signal = Literal["flips", "seeds"]  # what tells how unsure a single model is, see Options.uncertainty


@dataclass(frozen=True)
class ServedModel:
    """A bundle with weights, and the folder for what is fine-tuned from it; the bundle itself is never changed.

    Attributes:
        bundle: its folder absolute.
        work_dir: folder for this model's fine-tuned weights and training runs.
    """

    bundle: Bundle
    work_dir: Path

    @classmethod
    def open(cls, bundle: str | Path, work_dir: Path) -> ServedModel:
        """Read the bundle of that name or folder; its model goes into a folder of its name in ``work_dir``.

        Raises:
            InputError: there is no such bundle, or its metadata cannot be used.
        """
        root = Bundle.open(bundle).root.resolve()
        if not re.fullmatch(r"[\w.-]+", root.name):
            raise InputError(f"{root}: the folder's name becomes part of URLs, expected letters, digits, '_', '-', '.'")
        model = cls(Bundle(root), work_dir / root.name)
        for name in ("segments", "modality", "description", "version"):
            getattr(model.bundle, name)  # what the metadata lack is told here, not to a viewer that asks for it
        return model

    @property
    def name(self) -> str:
        """Name of the bundle's folder; part of URLs."""
        return self.bundle.name

    @property
    def colours(self) -> dict[str, list[int]]:
        """Colours by name, 0 to 255."""
        return {segment.name: list(segment.colour) for segment in self.bundle.segments.values()}

    @property
    def tuned_weights(self) -> Path:
        """Where the weights of the last fine-tuning lie, if there was one."""
        return self.work_dir / "model.pt"

    @property
    def weights(self) -> Path | None:
        """The weights in service: the fine-tuned ones, else the bundle's."""
        return self.tuned_weights if self.tuned_weights.is_file() else self.bundle.weights

    @property
    def signals(self) -> list[Signal]:
        """What tells how unsure the model is: seeds too, where it starts from noise."""
        network = self.bundle.config("inference")["network_def"]
        starts_from_noise = network["_target_"].endswith(".SDSeg") and network.get("start_noise", "shared") != "zeros"
        return [signal for signal in get_args(Signal) if signal != "seeds" or starts_from_noise]

    def chosen_weights(self, choice: str | None) -> Path:
        """Return the weights in service, or the bundle's for the choice ``original``.

        Raises:
            InputError: there are none.
        """
        weights = self.bundle.weights if choice == "original" else self.weights
        if weights is None:
            raise InputError(f"{self.bundle.root}: this bundle has no weights; train it first")
        return weights

    def pipeline(self, choice: str | None = None, **options: Any) -> Pipeline:
        """Build the model with the weights of :meth:`chosen_weights`, loaded strictly.

        Args:
            choice: of the weights.
            options: the others of :class:`~sdseg_monai.inference.options.Options`.
        """
        return Pipeline(self.bundle.root, weights=self.chosen_weights(choice), **options)


def open_models(bundles: Sequence[str | Path], work_dir: Path) -> dict[str, ServedModel]:
    """Return the models of ``bundles``, or of every installed bundle where none is named.

    An installed bundle without weights is left out; one that was named is an error.

    Raises:
        InputError: a named bundle cannot be served, two have one name, or there is nothing to serve.
    """
    models: dict[str, ServedModel] = {}
    for bundle in bundles or shipped_bundles():
        model = ServedModel.open(bundle, work_dir)
        if model.weights is None:
            if bundles:
                raise InputError(f"{model.bundle.root}: this bundle has no weights to serve; train it first")
            continue
        if model.name in models:
            roots = f"{model.bundle.root} and {models[model.name].bundle.root}"
            raise InputError(f"{roots}: two bundles of one name, rename a folder")
        models[model.name] = model
    if not models:
        raise InputError("no installed bundle has weights, name the folder of one that has")
    return models
