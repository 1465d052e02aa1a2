"""A wrapper that puts any image-to-logit network in SDSeg's place, to compare both on the same data and budget."""

from __future__ import annotations

import torch
from torch import nn


class PixelSegmenter(nn.Module):
    """A network that segments in pixel space, with SDSeg's interface.

    Args:
        backbone: maps an image [B, 3, ...] to one logit per pixel, [B, 1, ...], or one per class, [B, K, ...], as
            MONAI's segmentation networks do.

    Example:
        >>> network = PixelSegmenter(nn.Conv2d(3, 1, kernel_size=1))
        >>> network(torch.zeros(1, 3, 32, 32)).shape
        torch.Size([1, 1, 32, 32])
    """

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    @property
    def trained_parts(self) -> nn.ModuleDict:
        """The modules that training updates, by name: the backbone, which is all."""
        return nn.ModuleDict({"backbone": self.backbone})

    def forward(
        self, image: torch.Tensor, *, mask: torch.Tensor | None = None, seeds: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Segment, or run the forward pass of a training step.

        Args:
            image: [B, 3, ...] in [-1, 1].
            mask: [B, 1, ...], given in a training step; its values are not used.
            seeds: not used; :class:`SDSeg` draws its noise from them.

        Returns:
            The score [B, 1 or K, ...] in [0, 1], float32; in a training step the logits.
        """
        logits = self.backbone(image).float()
        if mask is not None:
            return logits
        return logits.sigmoid() if logits.shape[1] == 1 else logits.softmax(dim=1)
