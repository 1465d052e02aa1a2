"""Dice by the rule of the official code, to compare figures with those of the official code."""

from __future__ import annotations

from typing import Any

import torch
from monai.metrics import CumulativeIterationMetric

EPSILON = 1e-10  # added to the denominator, as in the official code


class TransUNetDice(CumulativeIterationMetric):
    """Dice of each class without the background, per case over the whole volume, with TransUNet's rule for empty masks.

    If both masks of a class have foreground, the Dice is 2 |A and B| / (|A| + |B| + 1e-10). If the prediction is empty,
    it is 0, even if the label is empty too; if only the label is empty, it is 1. This rewards false positives in a case
    without the class and penalises the correct empty mask: use it only to compare with the official figures.

    Args:
        num_classes: K, including the background.

    Source: ``dice_score`` and ``calculate_volume_dice`` in scripts/slice2seg.py, lin-tianyu/Stable-Diffusion-Seg.
    """

    def __init__(self, num_classes: int = 2) -> None:
        super().__init__()
        self.num_classes = num_classes

    def _compute_tensor(self, y_pred: torch.Tensor, y: torch.Tensor | None = None, **kwargs: Any) -> torch.Tensor:
        """Return the Dice of each class of each case, [B, K-1] in [0, 1], float32.

        Args:
            y_pred: prediction, [B, 1, ...], class of each voxel.
            y: label, likewise.
            kwargs: not used.

        Raises:
            ValueError: the label is missing, the shapes differ or are not [B, 1, ...].
        """
        if y is None or y.shape != y_pred.shape or y.ndim < 3 or y.shape[1] != 1:
            label_shape = None if y is None else tuple(y.shape)
            raise ValueError(f"prediction {tuple(y_pred.shape)} and label {label_shape}, expected the same [B, 1, ...]")
        return torch.stack([self._class_dice(y_pred == value, y == value) for value in range(1, self.num_classes)], 1)

    @staticmethod
    def _class_dice(y_pred: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Return the Dice of the masks ``y_pred`` and ``y`` [B, 1, ...] of one class, [B]."""
        mask_pred, mask = (values.flatten(1) for values in (y_pred, y))  # [B, voxels]
        overlap, size_pred, size = (values.sum(1) for values in (mask_pred & mask, mask_pred, mask))
        dice = 2 * overlap.double() / (size_pred + size + EPSILON)
        return torch.where((size == 0) & (size_pred > 0), 1.0, dice).float()

    def aggregate(self) -> torch.Tensor:
        """Return the mean over all cases and classes since the last reset, a scalar tensor.

        Raises:
            ValueError: there was no case.
        """
        scores = self.get_buffer()
        if scores is None:
            raise ValueError("no case was scored, expected at least one before aggregate")
        return scores.mean()
