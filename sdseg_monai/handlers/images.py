"""What the images of a training look like, written beside the weights that it chose."""

from __future__ import annotations

from pathlib import Path

import torch
from ignite.engine import Engine, Events
from torch.utils.data import Dataset
from tqdm import tqdm

from sdseg_monai.handlers.start import spaced_indices
from sdseg_monai.inferers import SliceWiseInferer
from sdseg_monai.networks import SDSeg
from sdseg_monai.networks.known_images import IMAGES, describe_images, image_distance, latent_features, usual_distance
from sdseg_monai.networks.trained_for import KEY
from sdseg_monai.weights import load_weights, read_tensors, save_tensors

LEAST_CASES = 16  # of a training: fewer do not show how different images of their kind can be


class DescribeImages:
    """When the training ends, write into the file of the best weights how its images look to the vision encoder.

    Images of another kind are told by it, see :class:`sdseg_monai.transforms.WarnUnlikeTrainingd`. A training of fewer
    than 16 cases describes nothing, and takes over no description of the weights that it started from.

    Args:
        path: the file, which :class:`BestModel` wrote; the network has its weights afterwards.
        network: the network that was validated.
        dataset: training set, items with ``image`` [3, H, W], augmented as in the first epoch; its ``data`` are the
            cases.
        validation: validation set, items with ``image`` [C, X, Y, Z].
        inferer: with which the network is validated.
        num_images: largest number of images; they are evenly spaced over the set.
        batch_size: images per forward pass.
    """

    def __init__(
        self,
        path: str | Path,
        network: SDSeg,
        dataset: Dataset,
        validation: Dataset,
        inferer: SliceWiseInferer,
        num_images: int = 512,
        batch_size: int = 8,
    ) -> None:
        self.path = Path(path)
        self.network = network
        self.dataset = dataset
        self.validation = validation
        self.inferer = inferer
        self.num_images = num_images
        self.batch_size = batch_size

    def attach(self, engine: Engine) -> None:
        """Attach to the trainer."""
        engine.add_event_handler(Events.COMPLETED, self)

    @torch.inference_mode()
    def __call__(self, engine: Engine) -> None:
        """Describe the images and write the file again."""
        if getattr(engine.state, "rank", 0) != 0:
            return
        if len(self.dataset.data) < LEAST_CASES:  # type: ignore[attr-defined]
            state = read_tensors(self.path)
            if IMAGES in state.get(KEY, {}):
                del state[KEY][IMAGES]
                save_tensors(self.path, state)
            return
        load_weights(self.network, self.path)
        self.network.eval()
        length = len(self.dataset)  # type: ignore[arg-type]
        indices = spaced_indices(length, self.num_images)
        starts = tqdm(range(0, len(indices), self.batch_size), desc="image latents", delay=2, leave=False)
        batches = (indices[start : start + self.batch_size] for start in starts)
        features = [self._features([self.dataset[index]["image"] for index in batch]) for batch in batches]
        known = describe_images(torch.cat(features))
        validation = (self.validation[index]["image"] for index in range(len(self.validation)))  # type: ignore[arg-type]
        distances = [
            image_distance(self._features(list(self.inferer.sample_slices(image))), known) for image in validation
        ]
        state = read_tensors(self.path)
        known["usual"] = usual_distance(torch.cat(distances))
        state[KEY] = {**state.get(KEY, {}), IMAGES: known}
        save_tensors(self.path, state)

    def _features(self, images: list[torch.Tensor]) -> torch.Tensor:
        image = torch.stack(images).to(self.network.scale_factor.device)
        return latent_features(self.network.encode_image(image))
