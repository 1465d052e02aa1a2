"""The training losses."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from monai.losses import DiceCELoss, DiceLoss
from monai.networks import one_hot
from torch import nn
from torch.nn import functional as F

from sdseg_monai.errors import InputError
from sdseg_monai.networks.autoencoder import AutoencoderOutput
from sdseg_monai.networks.codes import class_codes, class_logits, is_one_hot, mask_to_image
from sdseg_monai.networks.distillation import DistillationOutput
from sdseg_monai.networks.sdseg import SDSegOutput


class SegmentationLoss(nn.Module):
    """Dice + cross-entropy of logits, by MONAI's DiceCELoss; the Dice is over the foreground classes only.

    Args:
        batch_dice: compute the Dice over the whole batch, as nnU-Net does in 2-D, instead of for each sample. For a
            sample without a class the Dice loss is near 1 even if the score of this class is low everywhere.
    """

    def __init__(self, batch_dice: bool = False) -> None:
        super().__init__()
        self.binary = DiceCELoss(sigmoid=True, batch=batch_dice)
        self.multi_class = DiceCELoss(softmax=True, to_onehot_y=True, include_background=False, batch=batch_dice)

    def forward(self, logits: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return the scalar loss.

        Args:
            logits: one per class, [B, K, ...], or the foreground's, [B, 1, ...].
            mask: class of each pixel, [B, 1, ...] in {0..K-1}, or in {0, 1}.
        """
        return (self.binary if logits.shape[1] == 1 else self.multi_class)(logits.float(), mask.float())


class PresentClassesLoss(nn.Module):
    """Dice + cross-entropy of logits for many classes; the Dice is over the foreground classes that a mask has.

    Each class of each mask counts alike, the smallest one as much as the largest. Where a class is absent, the
    cross-entropy alone sees to it: its Dice would be about nothing, and most masks lack most of many classes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.dice = DiceLoss(softmax=True, to_onehot_y=True, include_background=False, reduction="none")

    def forward(self, logits: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return the scalar loss of ``logits`` [B, K, H, W] for ``mask`` [B, 1, H, W] in {0..K-1}."""
        logits, classes = logits.float(), mask[:, 0].long()
        is_present = one_hot(mask, logits.shape[1])[:, 1:].flatten(2).any(dim=2)  # [B, K - 1]
        dice = self.dice(logits, mask.float()).flatten(1)  # [B, K - 1]
        mean_dice = (dice * is_present).sum() / is_present.sum().clamp(min=1)
        return mean_dice + F.cross_entropy(logits, classes)


class SDSegLoss(nn.Module):
    """Eq. 3: L = L_noise + lambda L_latent, both mean absolute errors, and an optional segmentation term.

    Both terms are the same error in two scales, whatever the prediction type: |n^ - n| = sqrt(SNR_t) |z0^ - z0|. At
    t = 999, the step of inference, the error of the latent enters L_noise with a factor of only 0.0259, so L_latent is
    needed. If no noise is predicted (``sample``, or a start from zeros), L_noise is undefined and left out.

    Args:
        latent_weight: lambda; 1 in the paper.
        segmentation_weight: weight of :class:`SegmentationLoss` of the decoded estimate; 0 in the paper.
        decode_logits: from a latent to class logits, :meth:`SDSeg.decode_logits`; needed for the segmentation term.
        batch_dice: see :class:`SegmentationLoss`.
        train_decoder: whether the network's decoder is trained; only the segmentation term has gradients for it.

    Attributes:
        parts: the weighted terms of the last call, detached, by name; for logging.

    Raises:
        ValueError: ``segmentation_weight`` is not 0, but there is no ``decode_logits``.
        InputError: a weight is negative or not a number, or the decoder is trained without a segmentation term.
    """

    def __init__(
        self,
        latent_weight: float = 1.0,
        segmentation_weight: float = 0.0,
        decode_logits: Callable[[torch.Tensor], torch.Tensor] | None = None,
        batch_dice: bool = False,
        train_decoder: bool = False,
    ) -> None:
        super().__init__()
        for name, weight in (("latent_weight", latent_weight), ("segmentation_weight", segmentation_weight)):
            if not (isinstance(weight, int | float) and 0 <= weight < math.inf):
                raise InputError(f"{name}={weight!r}, expected a number from 0 on")
        if train_decoder and not segmentation_weight:
            raise InputError(
                f"train_decoder with segmentation_weight={segmentation_weight}: only the segmentation term trains the "
                "decoder, set its weight above 0 or train_decoder to false"
            )
        if segmentation_weight and decode_logits is None:
            raise ValueError(
                f"segmentation_weight={segmentation_weight} needs decode_logits: pass the network's method of that name"
            )
        self.latent_weight = latent_weight
        self.segmentation_weight = segmentation_weight
        self.decode_logits = decode_logits
        self.segmentation_loss = SegmentationLoss(batch_dice)
        self.parts: dict[str, torch.Tensor] = {}

    def forward(self, output: SDSegOutput, label: torch.Tensor) -> torch.Tensor:
        """Return the scalar loss.

        Args:
            output: of a training step; it holds the targets.
            label: [B, 1, H, W], from the trainer; not used, because the mask in ``output`` is the target: a
                class-conditional network is trained on the mask of a single class.

        Raises:
            InputError: both weights are 0 and no noise is predicted, so that there is nothing to learn.
        """
        if not (self.latent_weight or self.segmentation_weight or output.noise is not None):
            raise InputError(
                "latent_weight and segmentation_weight are 0 and no noise is predicted: nothing is left to learn, set "
                "one of the two above 0"
            )
        terms = {"latent": self.latent_weight * F.l1_loss(output.latent_pred, output.latent)}
        if output.noise is not None and output.noise_pred is not None:
            terms["noise"] = F.l1_loss(output.noise_pred, output.noise)
        if self.segmentation_weight and self.decode_logits is not None:
            logits = self.decode_logits(output.latent_pred)
            terms["segmentation"] = self.segmentation_weight * self.segmentation_loss(logits, output.mask)
        return _total(self, terms)


class PixelLoss(nn.Module):
    """Dice + cross-entropy on the logits of a :class:`~sdseg_monai.networks.PixelSegmenter`.

    Args:
        batch_dice: see :class:`SegmentationLoss`.

    Attributes:
        parts: the terms of the last call, detached, by name; for logging.
    """

    def __init__(self, batch_dice: bool = False) -> None:
        super().__init__()
        self.segmentation_loss = SegmentationLoss(batch_dice)
        self.parts: dict[str, torch.Tensor] = {}

    def forward(self, logits: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return the scalar loss of ``logits`` [B, 1 or K, ...] for ``mask`` [B, 1, ...], the class of each pixel."""
        return _total(self, {"segmentation": self.segmentation_loss(logits, mask)})


class MaskAutoencoderLoss(nn.Module):
    """Reconstruction loss plus the KL term of the posterior.

    The reconstruction loss of colours is the :class:`SegmentationLoss` and the L1 of the mask image, that of one
    channel a class the :class:`PresentClassesLoss`.

    Args:
        kl_weight: weight of the KL divergence per latent value.
        num_classes: classes of the masks, including the background.

    Attributes:
        parts: the weighted terms of the last call, detached, by name; for logging.
    """

    def __init__(self, kl_weight: float, num_classes: int = 2) -> None:
        super().__init__()
        self.kl_weight = kl_weight
        self.codes = class_codes(num_classes)
        self.segmentation_loss = PresentClassesLoss() if is_one_hot(num_classes) else SegmentationLoss()
        self.parts: dict[str, torch.Tensor] = {}

    def forward(self, output: AutoencoderOutput, mask: torch.Tensor) -> torch.Tensor:
        """Return the scalar loss of ``output`` for ``mask`` [B, 1, H, W] in {0..K-1}."""
        terms = {
            "segmentation": self.segmentation_loss(class_logits(output.reconstruction, self.codes), mask),
            "kl": self.kl_weight * output.posterior.kl().sum() / output.posterior.mean.numel(),
        }
        if not is_one_hot(len(self.codes)):
            terms = {"l1": F.l1_loss(output.reconstruction, mask_to_image(mask, self.codes)), **terms}
        return _total(self, terms)


class DistillationLoss(nn.Module):
    """L1 between the mask images of student and teacher, plus :class:`SegmentationLoss` for the true mask.

    Args:
        num_classes: classes of the masks, including the background.

    Attributes:
        parts: the terms of the last call, detached, by name; for logging.
    """

    def __init__(self, num_classes: int = 2) -> None:
        super().__init__()
        self.codes = class_codes(num_classes)
        self.segmentation_loss = SegmentationLoss()
        self.parts: dict[str, torch.Tensor] = {}

    def forward(self, output: DistillationOutput, mask: torch.Tensor) -> torch.Tensor:
        """Return the scalar loss of ``output`` for ``mask`` [B, 1, H, W] in {0..K-1}."""
        terms = {
            "l1": F.l1_loss(output.student, output.teacher),
            "segmentation": self.segmentation_loss(class_logits(output.student, self.codes), mask),
        }
        return _total(self, terms)


def _total(
    loss: SDSegLoss | PixelLoss | MaskAutoencoderLoss | DistillationLoss, terms: dict[str, torch.Tensor]
) -> torch.Tensor:
    loss.parts = {name: term.detach() for name, term in terms.items()}
    return torch.stack(list(terms.values())).sum()
