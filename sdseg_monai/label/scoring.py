"""Active learning: unlabelled images are scored by how much several masks of a model disagree, and served by score."""

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

SERVED_SECONDS = 24 * 60 * 60  # an image is not served again for this time while there are others
NO_SCORE = -1.0  # below every score


class DisagreementScoring(ScoringMethod):
    """Score every unlabelled image that has no score of the weights in service.

    A score lies in [0, 1] and is higher for images whose masks disagree more. The datastore keeps it in the image's
    info under :attr:`key`, with the SHA-256 of the weights. It is saved as soon as it is known, so that a scoring that
    was stopped can be continued. MONAI Label runs each scoring in its own process.

    Args:
        model: whose masks are compared.
        signal: the kind of uncertainty, that is, what differs between the masks, see
            :mod:`sdseg_monai.inference.strategies`.
    """

    def __init__(self, model: ServedModel, signal: Signal) -> None:
        super().__init__(f"Disagreement of {model.name} between {signal}")
        self.model = model
        self.signal: Signal = signal

    @property
    def key(self) -> str:
        """The key in an image's info of ``{"score": ..., "weights": ...}``."""
        return f"{self.model.name}_{self.signal}"

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, int]:
        """Score the images without a score; an image that cannot be scored is logged and left out.

        Args:
            request: ``device``, empty for CUDA where there is a GPU.
            datastore: of the images.

        Returns:
            Number of images ``scored`` and ``failed``.

        Raises:
            InputError: there are no weights, or the device or the signal cannot be used with this model.
        """
        # before the weights are loaded: if others come into service in between, the scores count as outdated
        digest = _digest(self.model.chosen_weights("latest"))
        images = self.unscored_images(datastore, digest)
        if not images:
            return {"scored": 0, "failed": 0}
        device = read_option(request, "device") or name_to_device(None)
        pipeline = self.model.pipeline(device=device, uncertainty=self.signal)
        failure_count = 0
        for number, image in enumerate(images, start=1):
            try:
                path, modality = Path(datastore.get_image_uri(image)), datastore.modality_of(image)
                result = cast(SampledSegmentation, pipeline(path, modality=modality))
                datastore.update_image_info(image, {self.key: {"score": result.disagreement, "weights": digest}})
            except Exception as error:  # a file, a DICOM server or a device may fail in any way
                failure_count += 1
                logger.warning("%s: not scored (%s)", image, error, exc_info=not isinstance(error, InputError))
            else:
                logger.info("%s: %s %.4f, %d of %d", image, self.key, result.disagreement, number, len(images))
        return {"scored": len(images) - failure_count, "failed": failure_count}

    def unscored_images(self, datastore: Datastore, digest: str | None = None) -> list[str]:
        """Return the unlabelled images without a score of the weights with this SHA-256, by default those in service.

        Raises:
            InputError: there are no weights in service.
        """
        digest = digest or _digest(self.model.chosen_weights("latest"))
        images = datastore.get_unlabeled_images()
        return [image for image in images if _saved_score(datastore, image, self.key).get("weights") != digest]


class HighestScore(Strategy):
    """Serve the unlabelled image with the highest score; images without a score come last.

    An image that this strategy has served in the last day waits until all others have been served; then the one that
    was served first comes first. A score of weights that are no longer in service counts until the image has a new one.

    Args:
        key: of the score in an image's info, see :attr:`DisagreementScoring.key`.
        description: one line for the viewer.
    """

    def __init__(self, key: str, description: str) -> None:
        super().__init__(description)
        self.key = key

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any] | None:
        """Return ``id`` and ``score`` of the image to label next; the score is None where the image has none.

        Args:
            request: ``strategy``, the name under which MONAI Label saves when it served an image.
            datastore: of the images.

        Returns:
            None where all images that can be read have a label.
        """
        images = sorted(datastore.get_unlabeled_images(request.get("label_tag"), request.get("labels")))
        if not images:
            return None
        times = {image: _serving_time(datastore, image, request["strategy"]) for image in images}
        scores = {image: _saved_score(datastore, image, self.key).get("score", NO_SCORE) for image in images}
        day_start = time.time() - SERVED_SECONDS
        for image in sorted(images, key=lambda image: (max(times[image] - day_start, 0), -scores[image])):
            try:
                datastore.get_image_uri(image)
            except InputError as error:  # only when it is fetched can a DICOM series turn out not to be a volume
                logger.warning("%s: not served (%s)", image, error)
                continue
            return {"id": image, "score": None if scores[image] == NO_SCORE else scores[image]}
        return None


def _saved_score(datastore: Datastore, image: str, key: str) -> dict[str, Any]:
    return datastore.get_image_info(image).get(key, {})


def _serving_time(datastore: Datastore, image: str, strategy: str) -> float:
    """Return when the strategy last served the image, in seconds since 1970; 0 for never."""
    return datastore.get_image_info(image).get("strategy", {}).get(strategy, {}).get("ts", 0)


def _digest(path: Path) -> str:
    status = path.stat()
    return _digest_of(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=8)
def _digest_of(path: Path, mtime_ns: int, size: int) -> str:
    return hash_file(path)
