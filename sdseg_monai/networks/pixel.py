"""Any image-to-logit network in the place of SDSeg, for a comparison on the same data, budget and metric."""

from __future__ import annotations

import torch
from torch import nn


class PixelSegmenter(nn.Module):
    """A network that segments in pixel space, with SDSeg's interface.

    Args:
        backbone: maps an image [B, 3, ...] to one logit per pixel, [B, 1, ...], or one per class, [B, K, ...];
            MONAI's networks do.
    """

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    @property
    def trained_parts(self) -> nn.ModuleDict:
        """The parts that training changes: all of it."""
        return nn.ModuleDict({"backbone": self.backbone})

    def forward(
        self, image: torch.Tensor, *, mask: torch.Tensor | None = None, seeds: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the score [B, 1 or K, ...] in [0, 1], or, in a training step, which gives ``mask``, the logits."""
        logits = self.backbone(image).float()
        if mask is not None:
            return logits
        return logits.sigmoid() if logits.shape[1] == 1 else logits.softmax(dim=1)
