"""Active learning: images without a label are scored by how much a model's masks of them disagree, highest first."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.interfaces.tasks.strategy import Strategy
from monailabel.utils.others.generic import name_to_device

from sdseg_monai.errors import InputError
from sdseg_monai.inference.uncertainty import SampledSegmentation
from sdseg_monai.io.files import hash_file
from sdseg_monai.label.models import ServedModel, Signal
from sdseg_monai.label.options import read_option

logger = logging.getLogger(__name__)

SERVED_SECONDS = 24 * 60 * 60  # so long an image that was served is not served again while there are others
UNSCORED = -1.0  # below every score


class DisagreementScoring(ScoringMethod):
    """Score every unlabelled image that has no score of the weights in service.

    A score lies in [0, 1], higher for images that are worth a look; the datastore keeps it in the image's info under
    :attr:`key`, with the SHA-256 of the weights, as soon as it is known, so that a scoring that was stopped goes on
    where it was. MONAI Label runs it in a process of its own.

    Args:
        model: whose masks are compared.
        signal: what differs from mask to mask, see :mod:`sdseg_monai.inference.strategies`.
    """

    def __init__(self, model: ServedModel, signal: Signal) -> None:
        super().__init__(f"Disagreement of {model.name} between {signal}")
        self.model = model
        self.signal: Signal = signal

    @property
    def key(self) -> str:
        """Where the score lies in an image's info: ``{"score": ..., "weights": ...}``."""
        return f"{self.model.name}_{self.signal}"

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, int]:
        """Score what is due; an image that cannot be scored is logged and left out.

        Args:
            request: ``device``, empty for CUDA where there is some.
            datastore: of the images.

        Returns:
            Number of images ``scored`` and ``failed``.

        Raises:
            InputError: there are no weights, or the device or the signal cannot be used with this model.
        """
        # before they are loaded: should others come into service meanwhile, the scores count as outdated, not as theirs
        weights = _digest(self.model.chosen_weights("latest"))
        due = self.due(datastore, weights)
        if not due:
            return {"scored": 0, "failed": 0}
        device = read_option(request, "device") or name_to_device(None)
        pipeline = self.model.pipeline(device=device, uncertainty=self.signal)
        failed = 0
        for number, image in enumerate(due, start=1):
            try:
                result = cast(SampledSegmentation, pipeline(Path(datastore.get_image_uri(image))))
                datastore.update_image_info(image, {self.key: {"score": result.disagreement, "weights": weights}})
            except Exception as error:  # a file, a DICOM server and a device fail in as many ways
                failed += 1
                logger.warning("%s: not scored (%s)", image, error, exc_info=not isinstance(error, InputError))
            else:
                logger.info("%s: %s %.4f, %d of %d", image, self.key, result.disagreement, number, len(due))
        return {"scored": len(due) - failed, "failed": failed}

    def due(self, datastore: Datastore, weights: str | None = None) -> list[str]:
        """Return the unlabelled images without a score of these ``weights``, a digest; None for those in service."""
        weights = weights or _digest(self.model.chosen_weights("latest"))
        images = datastore.get_unlabeled_images()
        return [image for image in images if _stored(datastore, image, self.key).get("weights") != weights]


class HighestScore(Strategy):
    """Serve the unlabelled image with the highest score, those without one after them.

    An image that this strategy has served in the last day waits until all others were; then comes the one that was
    served first. Scores of weights that are no longer in service count until the scoring has come to them.

    Args:
        key: of the score in an image's info, as :attr:`DisagreementScoring.key`.
        description: one line for the viewer.
    """

    def __init__(self, key: str, description: str) -> None:
        super().__init__(description)
        self.key = key

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any] | None:
        """Return ``id`` and ``score`` of the image to label next, its score None where it has none.

        Args:
            request: ``strategy``, the name under which MONAI Label notes when it served an image.
            datastore: of the images.

        Returns:
            None where every image that can be read has a label.
        """
        images = sorted(datastore.get_unlabeled_images(request.get("label_tag"), request.get("labels")))
        if not images:
            return None
        served = {image: _served(datastore, image, request["strategy"]) for image in images}
        scores = {image: _stored(datastore, image, self.key).get("score", UNSCORED) for image in images}
        day = time.time() - SERVED_SECONDS
        for image in sorted(images, key=lambda i: (max(served[i] - day, 0), -scores[i])):
            try:
                datastore.get_image_uri(image)
            except InputError as error:  # a DICOM series may be no volume, which shows when it is fetched
                logger.warning("%s: not served (%s)", image, error)
                continue
            return {"id": image, "score": None if scores[image] == UNSCORED else scores[image]}
        return None


def _stored(datastore: Datastore, image: str, key: str) -> dict[str, Any]:
    return datastore.get_image_info(image).get(key, {})


def _served(datastore: Datastore, image: str, strategy: str) -> float:
    """Return when the strategy last served the image, in seconds since 1970; 0 for never."""
    return datastore.get_image_info(image).get("strategy", {}).get(strategy, {}).get("ts", 0)


def _digest(path: Path) -> str:
    status = path.stat()
    return _digest_of(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=8)
def _digest_of(path: Path, mtime_ns: int, size: int) -> str:
    return hash_file(path)
