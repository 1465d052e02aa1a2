"""Inference from the viewer: the same as ``sdseg segment``, with the panel's options."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType
from monailabel.utils.others.generic import device_list

from sdseg_monai.inference.pipeline import Pipeline
from sdseg_monai.io.volumes import volume_suffix, write_volume
from sdseg_monai.io.warnings import NOT_TRUSTED
from sdseg_monai.label.models import ServedModel
from sdseg_monai.label.options import WEIGHTS, read_option

logger = logging.getLogger(__name__)

DIMENSION = 3  # of the images; the network sees slices


class SegmentTask(InferTask):
    """Segment a volume with a bundle; the mask is ``uint8``, on the volume's grid.

    The network stays in memory; it is built again when the weights in service or the device change. The app's queue
    makes sure that there is one call at a time.
    """

    def __init__(self, model: ServedModel) -> None:
        options = {"device": device_list(), "seed": "", "batch_size": "", "weights": list(WEIGHTS), "force": False}
        super().__init__(InferType.SEGMENTATION, model.bundle.labels, DIMENSION, model.bundle.description, options)
        self.model = model
        self._pipeline: Pipeline | None = None
        self._pipeline_key: tuple[Any, ...] = ()

    def is_valid(self) -> bool:
        """Tell whether there are weights."""
        return self.model.weights is not None

    def info(self) -> dict[str, Any]:
        """Return the description of the model for viewers."""
        return {**super().info(), "version": self.model.bundle.version, "colors": self.model.colours}

    def __call__(self, request: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """Segment the file ``request["image"]``.

        Args:
            request: ``device``, ``seed``, ``batch_size`` and ``weights`` (``original``: not the fine-tuned ones) as in
                the panel, empty for the bundle's values; ``force``: true for an image that contradicts the training;
                ``modality``: of the image, which the app adds; ``result_extension``: suffix of the mask's file, by
                default the image's; ``result_compress``: false for an uncompressed NRRD, the only kind that OHIF reads.

        Returns:
            The mask's file, which the caller must remove, and names, colours, warnings, trust and times in seconds. The
            names of a mask that is not trusted say so, since viewers show nothing else of the answer.

        Raises:
            InputError: the image or an option cannot be used, the image contradicts the training and ``force`` is not
                set, or the weights do not fit the network.
        """
        start = time.monotonic()
        image = Path(request["image"])
        suffix = read_option(request, "result_extension") or volume_suffix(image)
        compress = read_option(request, "result_compress") is not False
        pipeline = self._configured_pipeline(request)
        load_end = time.monotonic()
        with tempfile.NamedTemporaryFile(suffix=suffix, delete=False) as file:
            mask = Path(file.name)
        try:
            result = pipeline(image, modality=str(request.get("modality") or ""), maps=[])
            write_volume(mask, result.labels, image, compress=compress, description=result.not_trusted)
        except BaseException:
            mask.unlink(missing_ok=True)
            raise
        end = time.monotonic()
        logger.info("%s: segmented %s in %.1f s", self.model.name, image.name, end - start)
        seconds = {"load": load_end - start, "infer": end - load_end, "total": end - start}
        mark = "" if result.trusted else f"{NOT_TRUSTED} "
        return str(mask), {
            "label_names": {mark + name: value for name, value in self.model.bundle.labels.items()},
            "label_colors": {mark + name: colour for name, colour in self.model.colours.items()},
            **result.trust,
            "latencies": {name: round(value, 2) for name, value in seconds.items()},
            "warnings": [warning.text for warning in result.warnings],
            "centroids": {},  # OHIF's panel expects the key
        }

    def _configured_pipeline(self, request: Mapping[str, Any]) -> Pipeline:
        weights, device = read_option(request, "weights"), read_option(request, "device")
        file = self.model.chosen_weights(weights)
        key = (device, file, file.stat().st_mtime_ns)
        if self._pipeline is None or key != self._pipeline_key:
            self._pipeline = None  # free its memory before the new one is built
            self._pipeline = self.model.pipeline(weights, device=device)
            self._pipeline_key = key
        self._pipeline.configure(
            seed=read_option(request, "seed"),
            batch_size=read_option(request, "batch_size"),
            force=bool(read_option(request, "force")),
        )
        return self._pipeline
