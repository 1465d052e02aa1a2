"""How far an image lies from those that a network was trained on, by its latent.

A network segments an image of another kind without an error. Its vision encoder sees the difference: the mean of such
an image's latent over its places, or how much it varies between them, lies far from those of the training, in units of
their spread. By the means alone, the fetal head bundle refused 12 of 60 slices of cine MR; by both, 59.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from sdseg_monai.errors import InputError

IMAGES = "images"  # among what weights were trained for
NAMES = ("mean", "precision", "usual")
USUAL = 0.98  # share of the slices that validated the training
SHRINKAGE = 1e-3  # of the correlations between features, so that the covariance can be inverted
LEAST_VARIANCE = 1e-12  # of a feature, likewise
LEAST_STD = 1e-3  # of a channel of an image latent, so that its logarithm is finite for a slice that shows nothing


def latent_features(image_latent: torch.Tensor) -> torch.Tensor:
    """Return mean and log standard deviation over its places of an image latent [B, Z, h, w].

    Returns:
        [B, 2 Z], float64, on the CPU.
    """
    latent = image_latent.double()
    std = latent.std(dim=(2, 3), correction=0).clamp(min=LEAST_STD)
    return torch.cat([latent.mean(dim=(2, 3)), std.log()], dim=1).cpu()


def describe_images(features: torch.Tensor) -> dict[str, Any]:
    """Return where the images of a training lie.

    Args:
        features: of all images, [N, F], from :func:`latent_features`.

    Returns:
        ``mean`` [F] and ``precision`` [F, F], the inverse of the covariance, both float64.
    """
    covariance = torch.atleast_2d(torch.cov(features.T))
    variance = covariance.diagonal().clamp(min=LEAST_VARIANCE)
    precision = torch.linalg.inv((1 - SHRINKAGE) * covariance + SHRINKAGE * torch.diag(variance))
    return {"mean": features.mean(dim=0), "precision": precision}


def usual_distance(distances: torch.Tensor) -> float:
    """Return the distance within which 98 % of the slices lie that were not trained on: ``usual`` in the record.

    The training's own images lie nearer than others of their kind, because the network knows them. A volume counts as
    its slices: a few volumes alone would not show how far volumes of their kind can lie.

    Args:
        distances: of slices that validated the training, [N], from :func:`image_distance`.
    """
    return float(distances.quantile(USUAL))


def image_distance(features: torch.Tensor, known: Mapping[str, Any]) -> torch.Tensor:
    """Return the Mahalanobis distance of images from those of the training, [B].

    Args:
        features: [B, F], from :func:`latent_features`.
        known: from :func:`describe_images`.
    """
    offset = features - known["mean"]
    return torch.einsum("bi,ij,bj->b", offset, known["precision"], offset).clamp(min=0).sqrt()


def check_known_images(known: Any, channels: int) -> None:
    """Check a record of :func:`describe_images`, with its :func:`usual_distance`, that was read from a file.

    Args:
        known: the record.
        channels: Z of the network's image latent.

    Raises:
        InputError: it lacks a value, or has one of another kind or shape, or one that is not finite.
    """
    size = 2 * channels  # see latent_features
    shapes = {"mean": (size,), "precision": (size, size)}
    is_usable = isinstance(known, Mapping) and set(known) == set(NAMES)
    is_usable = is_usable and isinstance(known["usual"], float) and 0 < known["usual"] < math.inf
    for name, shape in shapes.items() if is_usable else ():
        value = known[name]
        is_usable &= isinstance(value, torch.Tensor) and value.shape == shape and value.dtype == torch.float64
        is_usable = is_usable and bool(torch.isfinite(value).all())
    if not is_usable:
        raise InputError(
            f"its record of the training's images is damaged, expected {', '.join(NAMES)} of {size} features"
        )
