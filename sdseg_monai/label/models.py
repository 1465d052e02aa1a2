"""The bundles that a server offers, with what their metadata says of labels and which weights are in service."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from sdseg_monai.bundle import bundle_metadata, bundle_weights, find_bundle, read_config, shipped_bundles
from sdseg_monai.errors import InputError
from sdseg_monai.inference.pipeline import Pipeline
from sdseg_monai.io.segments import Segment, read_modality, read_segments

Signal = Literal["flips", "seeds"]  # what tells how unsure a single model is, see Options.uncertainty


@dataclass(frozen=True)
class ServedModel:
    """A bundle with weights, and the folder for what is fine-tuned from it; the bundle itself is never changed.

    Attributes:
        name: of the bundle's folder; part of URLs.
        root: the bundle.
        work_dir: folder for this model's fine-tuned weights and training runs.
        segments: by the masks' values, background left out.
        modality: DICOM's term for what the bundle segments, empty where the metadata does not say.
        description: one line for the viewer.
        version: the bundle's.
    """

    name: str
    root: Path
    work_dir: Path
    segments: dict[int, Segment]
    modality: str
    description: str
    version: str

    @classmethod
    def open(cls, bundle: str | Path, work_dir: Path) -> ServedModel:
        """Read the bundle of that name or folder; its model goes into a folder of its name in ``work_dir``.

        Raises:
            InputError: there is no such bundle, or its metadata cannot be used.
        """
        root = find_bundle(bundle).resolve()
        if not re.fullmatch(r"[\w.-]+", root.name):
            raise InputError(f"{root}: the folder's name becomes part of URLs, expected letters, digits, '_', '-', '.'")
        with bundle_metadata(root) as metadata:
            return cls(
                name=root.name,
                root=root,
                work_dir=work_dir / root.name,
                segments=read_segments(metadata),
                modality=read_modality(metadata),
                description=str(metadata["description"]),
                version=str(metadata["version"]),
            )

    @property
    def labels(self) -> dict[str, int]:
        """Values by name."""
        return {segment.name: value for value, segment in self.segments.items()}

    @property
    def colours(self) -> dict[str, list[int]]:
        """Colours by name, 0 to 255."""
        return {segment.name: list(segment.colour) for segment in self.segments.values()}

    @property
    def own_weights(self) -> Path | None:
        """The weights that came with the bundle, None where there are none."""
        return bundle_weights(self.root)

    @property
    def tuned_weights(self) -> Path:
        """Where the weights of the last fine-tuning lie, if there was one."""
        return self.work_dir / "model.pt"

    @property
    def weights(self) -> Path | None:
        """The weights in service: the fine-tuned ones, else the bundle's."""
        return self.tuned_weights if self.tuned_weights.is_file() else self.own_weights

    @property
    def signals(self) -> list[Signal]:
        """What tells how unsure the model is: seeds too, where it starts from noise."""
        network = read_config(self.root / "configs" / "inference.json", self.root)["network_def"]
        starts_from_noise = network["_target_"].endswith(".SDSeg") and network.get("start_noise", "shared") != "zeros"
        return [signal for signal in get_args(Signal) if signal != "seeds" or starts_from_noise]

    def chosen_weights(self, choice: str | None) -> Path:
        """Return the weights in service, or the bundle's for the choice ``original``.

        Raises:
            InputError: there are none.
        """
        weights = self.own_weights if choice == "original" else self.weights
        if weights is None:
            raise InputError(f"{self.root}: this bundle has no weights; train it first")
        return weights

    def pipeline(self, choice: str | None = None, **options: Any) -> Pipeline:
        """Build the model with the weights of :meth:`chosen_weights`, loaded strictly.

        Args:
            choice: of the weights.
            options: the others of :class:`~sdseg_monai.inference.options.Options`.
        """
        return Pipeline(self.root, weights=self.chosen_weights(choice), **options)


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
                raise InputError(f"{model.root}: this bundle has no weights to serve; train it first")
            continue
        if model.name in models:
            raise InputError(f"{model.root} and {models[model.name].root}: two bundles of one name, rename a folder")
        models[model.name] = model
    if not models:
        raise InputError("no installed bundle has weights, name the folder of one that has")
    return models
