"""LPIPS, the perceptual distance of two images, in plain torch layers."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from sdseg_monai.errors import InputError

CHANNELS = (64, 192, 384, 256, 256)  # of AlexNet's five convolutions
RELU_INDICES = (1, 4, 7, 9, 11)  # of the layers in ``features`` whose activations are compared
MEAN, STD = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # ImageNet's, for images in [-1, 1]
EPSILON = 1e-10


class Lpips(nn.Module):
    """LPIPS v0.1 with an AlexNet trunk: 0 for equal images, larger for images that look less alike.

    The five activations of the trunk are scaled to unit length at each position. Their squared differences are
    weighted per channel, averaged over the positions and summed over the activations.

    torchmetrics, which the official notebook uses, differs in one detail: it adds 1e-8 to the squared length, while
    the package of LPIPS' authors and this class add 1e-10 to the length.

    Args:
        weights: safetensors file with the trunk, ``features.{0,3,6,8,10}.{weight,bias}`` as torchvision names them, and
            the heads, ``lin{0..4}.weight`` [1, C, 1, 1].

    Raises:
        InputError: the file is missing, damaged, or not these weights.

    Source: Zhang et al., The Unreasonable Effectiveness of Deep Features as a Perceptual Metric, CVPR 2018;
    richzhang/PerceptualSimilarity, lpips 0.1.4.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, weights: str | Path) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, CHANNELS[0], 11, stride=4, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2),
            nn.Conv2d(CHANNELS[0], CHANNELS[1], 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2),
        )
        for in_channels, out_channels in pairwise(CHANNELS[1:]):
            self.features.extend([nn.Conv2d(in_channels, out_channels, 3, padding=1), nn.ReLU()])
        for i, channels in enumerate(CHANNELS):
            self.add_module(f"lin{i}", nn.Conv2d(channels, 1, 1, bias=False))
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1), persistent=False)
        _load(self, Path(weights))
        self.eval().requires_grad_(False)

    def forward(self, image: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        """Return the distances [B] of ``image`` and ``reference``, both RGB [B, 3, H, W] in [-1, 1].

        Raises:
            ValueError: the shapes differ or are not [B, 3, H, W], or a value is NaN or outside [-1, 1].
        """
        if image.shape != reference.shape:
            raise ValueError(f"images {tuple(image.shape)} and {tuple(reference.shape)}, expected the same shape")
        return self.compare(self.extract(image), self.extract(reference))

    def extract(self, image: torch.Tensor) -> list[torch.Tensor]:
        """Return the five activations [B, C, h, w] of ``image`` [B, 3, H, W] in [-1, 1], of length 1 over C.

        An image that is compared with several images needs to be extracted once only.

        Raises:
            ValueError: the shape is not [B, 3, H, W], or a value is NaN or outside [-1, 1].
        """
        if image.ndim != 4 or image.shape[1] != 3:
            raise ValueError(f"image {tuple(image.shape)}, expected [B, 3, H, W]")
        low, high = map(float, torch.aminmax(image.detach()))
        if not (low >= -1 and high <= 1):
            raise ValueError(f"values from {low:.3g} to {high:.3g}, expected [-1, 1]")
        activation = (image.float() - self.mean) / self.std
        activations = []
        for i, layer in enumerate(self.features):
            activation = layer(activation)
            if i in RELU_INDICES:
                length = torch.linalg.vector_norm(activation, dim=1, keepdim=True)
                activations.append(activation / (length + EPSILON))
        return activations

    def compare(self, activations: list[torch.Tensor], references: list[torch.Tensor]) -> torch.Tensor:
        """Return the distances [B] of two batches of images from their activations, see :meth:`extract`."""
        distance = torch.zeros(len(activations[0]), device=activations[0].device)
        for i, (a, b) in enumerate(zip(activations, references, strict=True)):
            distance = distance + self.get_submodule(f"lin{i}")((a - b) ** 2).mean(dim=(1, 2, 3))
        return distance


def _load(network: Lpips, path: Path) -> None:
    if not path.is_file():
        raise InputError(f"{path}: no such file, expected LPIPS weights with an AlexNet trunk")
    try:
        state = load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a readable safetensors file ({error}), expected LPIPS weights") from error
    for name, value in state.items():
        if not (value.is_floating_point() and value.isfinite().all()):
            raise InputError(f"{path}: {name} is no tensor of finite numbers, expected LPIPS weights")
    try:
        network.load_state_dict(state, strict=True)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()]
        raise InputError(
            f"{path}: not LPIPS weights with an AlexNet trunk ({' '.join(lines[:2])[:300]}), expected "
            "features.{0,3,6,8,10} and lin0 to lin4"
        ) from error
