"""The training objectives."""

from __future__ import annotations

from collections.abc import Callable

import torch
from monai.losses import DiceCELoss
from torch import nn
from torch.nn import functional as F

from sdseg_monai.networks.autoencoder import AutoencoderOutput
from sdseg_monai.networks.sdseg import SDSegOutput, mask_to_image

MASK_LOGIT_GAIN = 5.0  # sigmoid(5) = 0.993 where a decoded mask is 1: Dice and cross-entropy then ask for little more


class MaskImageLoss(nn.Module):
    """Dice + cross-entropy on a decoded mask image.

    The logit of a pixel is ``MASK_LOGIT_GAIN`` times the mean of its three decoded channels. It is not clamped, so that
    its gradient never vanishes; the score clamps each channel first, so logit 0 is score 0.5 where they lie in [-1, 1].
    """

    def __init__(self) -> None:
        super().__init__()
        self.dice_ce = DiceCELoss(sigmoid=True)

    def forward(self, mask_image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Compare ``mask_image`` [B, 3, H, W], about [-1, 1], with ``mask`` [B, 1, H, W] in {0, 1}; scalar."""
        logit = MASK_LOGIT_GAIN * mask_image.float().mean(dim=1, keepdim=True)  # [B, 1, H, W]
        return self.dice_ce(logit, mask.float())


class SDSegLoss(nn.Module):
    """Eq. 3: L = L_noise + lambda L_latent, both mean absolute errors, and an optional segmentation term.

    Both terms are one error in two scales, whatever the prediction type: |n^ - n| = sqrt(SNR_t) |z0^ - z0|. At t = 999,
    inference's one step, L_noise counts an error of the latent 0.0259 times: that is what L_latent is for. Where no
    noise is predicted (``sample``, or a start from zeros) L_noise is undefined and left out.

    Args:
        latent_weight: lambda; 1 in the paper.
        segmentation_weight: weight of :class:`MaskImageLoss` on the decoded estimate; 0 in the paper.
        decode: latent to mask image, :meth:`SDSeg.decode`; needed for the segmentation term.

    Attributes:
        parts: the weighted terms of the last call, detached, by name; for logging.

    Raises:
        ValueError: a segmentation term is asked for without ``decode``.
    """

    def __init__(
        self,
        latent_weight: float = 1.0,
        segmentation_weight: float = 0.0,
        decode: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> None:
        super().__init__()
        if segmentation_weight and decode is None:
            raise ValueError(
                f"segmentation_weight={segmentation_weight} needs decode: pass the network's decode method"
            )
        self.latent_weight = latent_weight
        self.segmentation_weight = segmentation_weight
        self.decode = decode
        self.mask_image_loss = MaskImageLoss()
        self.parts: dict[str, torch.Tensor] = {}

    def forward(self, output: SDSegOutput, mask: torch.Tensor) -> torch.Tensor:
        """Return the scalar loss of a training step's ``output`` for ``mask`` [B, 1, H, W] in {0, 1}."""
        terms = {"latent": self.latent_weight * F.l1_loss(output.latent_pred, output.latent)}
        if output.noise is not None and output.noise_pred is not None:
            terms["noise"] = F.l1_loss(output.noise_pred, output.noise)
        if self.segmentation_weight and self.decode is not None:
            decoded = self.decode(output.latent_pred)
            terms["segmentation"] = self.segmentation_weight * self.mask_image_loss(decoded, mask)
        return _total(self, terms)


class PixelLoss(nn.Module):
    """Dice + cross-entropy on the logits of a :class:`~sdseg_monai.networks.PixelSegmenter`.

    Attributes:
        parts: the terms of the last call, detached, by name; for logging.
    """

    def __init__(self) -> None:
        super().__init__()
        self.dice_ce = DiceCELoss(sigmoid=True)
        self.parts: dict[str, torch.Tensor] = {}

    def forward(self, logit: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Compare ``logit`` with ``mask`` in {0, 1}, both [B, 1, H, W]; scalar."""
        return _total(self, {"segmentation": self.dice_ce(logit, mask.float())})


class MaskAutoencoderLoss(nn.Module):
    """Reconstruction (L1 on the mask image and :class:`MaskImageLoss`) plus the KL term of the posterior.

    Args:
        kl_weight: weight of the KL divergence per latent value.

    Attributes:
        parts: the weighted terms of the last call, detached, by name; for logging.
    """

    def __init__(self, kl_weight: float) -> None:
        super().__init__()
        self.kl_weight = kl_weight
        self.mask_image_loss = MaskImageLoss()
        self.parts: dict[str, torch.Tensor] = {}

    def forward(self, output: AutoencoderOutput, mask: torch.Tensor) -> torch.Tensor:
        """Return the scalar loss of ``output`` for ``mask`` [B, 1, H, W] in {0, 1}."""
        terms = {
            "l1": F.l1_loss(output.reconstruction, mask_to_image(mask)),
            "segmentation": self.mask_image_loss(output.reconstruction, mask),
            "kl": self.kl_weight * output.posterior.kl().sum() / output.posterior.mean.numel(),
        }
        return _total(self, terms)


def _total(loss: SDSegLoss | PixelLoss | MaskAutoencoderLoss, terms: dict[str, torch.Tensor]) -> torch.Tensor:
    loss.parts = {name: term.detach() for name, term in terms.items()}
    return torch.stack(list(terms.values())).sum()
