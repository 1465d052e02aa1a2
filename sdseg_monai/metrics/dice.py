"""Dice by the rule of the official code, for figures that must be comparable with its own."""

from __future__ import annotations

from typing import Any

import torch
from monai.metrics import CumulativeIterationMetric

EPSILON = 1e-10  # the official denominator's


class TransUNetDice(CumulativeIterationMetric):
    """Dice of binary masks, per case over the whole volume, with TransUNet's rule for empty ones.

    Two masks with foreground score 2 |A and B| / (|A| + |B| + 1e-10). An empty prediction scores 0, even where the
    label is empty too; a prediction with foreground scores 1 where the label is empty. So a false alarm on an empty
    case is rewarded and silence punished: for comparison with the official figures only.

    Source: ``dice_score`` and ``calculate_volume_dice`` in scripts/slice2seg.py, lin-tianyu/Stable-Diffusion-Seg.
    """

    def _compute_tensor(self, y_pred: torch.Tensor, y: torch.Tensor | None = None, **kwargs: Any) -> torch.Tensor:
        """Score ``y_pred`` against ``y``, both [B, 1, ...] in {0, 1}; returns [B, 1] in [0, 1], float32.

        Raises:
            ValueError: the label is missing, the shapes differ or are not [B, 1, ...].
        """
        if y is None or y.shape != y_pred.shape or y.ndim < 3 or y.shape[1] != 1:
            found = None if y is None else tuple(y.shape)
            raise ValueError(f"prediction {tuple(y_pred.shape)} and label {found}, expected the same [B, 1, ...]")
        predicted, expected = (mask.flatten(1) > 0 for mask in (y_pred, y))  # [B, voxels]
        overlap, size_pred, size = (m.sum(1) for m in (predicted & expected, predicted, expected))
        dice = 2 * overlap.double() / (size_pred + size + EPSILON)
        dice = torch.where((size == 0) & (size_pred > 0), 1.0, dice)
        return dice.float()[:, None]

    def aggregate(self) -> torch.Tensor:
        """Return the mean over all cases since the last reset; scalar.

        Raises:
            ValueError: there was no case.
        """
        scores = self.get_buffer()
        if scores is None:
            raise ValueError("no case was scored, expected at least one before aggregate")
        return scores.mean()
