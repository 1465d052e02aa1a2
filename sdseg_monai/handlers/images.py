"""What the images of a training look like, written beside the weights that it chose."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from ignite.engine import Engine, Events
from torch.utils.data import Dataset
from tqdm import tqdm

from sdseg_monai.networks import SDSeg
from sdseg_monai.networks.known_images import IMAGES, describe_images, latent_features
from sdseg_monai.networks.trained_for import KEY
from sdseg_monai.weights import load_weights, read_tensors, save_tensors


class DescribeImages:
    """When the training ends, write into the file of the best weights how its images look to the vision encoder.

    Images of another kind are told by it, see :class:`sdseg_monai.transforms.WarnUnlikeTrainingd`.

    Args:
        path: the file, which :class:`BestModel` wrote; the network has its weights afterwards.
        network: the network that was validated.
        dataset: training set, items with ``image`` [3, H, W], augmented as in the first epoch.
        num_images: largest number of images; they are evenly spaced over the set.
        batch_size: images per forward pass.
    """

    def __init__(
        self, path: str | Path, network: SDSeg, dataset: Dataset, num_images: int = 2048, batch_size: int = 8
    ) -> None:
        self.path = Path(path)
        self.network = network
        self.dataset = dataset
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
        load_weights(self.network, self.path)
        self.network.eval()
        device = self.network.scale_factor.device
        length = len(self.dataset)  # type: ignore[arg-type]
        indices = range(0, length, max(1, math.ceil(length / self.num_images)))
        features = []
        for start in tqdm(range(0, len(indices), self.batch_size), desc="image latents", delay=2, leave=False):
            batch = [self.dataset[index]["image"] for index in indices[start : start + self.batch_size]]
            features.append(latent_features(self.network.encode_image(torch.stack(batch).to(device))))
        state = read_tensors(self.path)
        state[KEY] = {**state.get(KEY, {}), IMAGES: describe_images(torch.cat(features))}
        save_tensors(self.path, state)
