"""Class codes: a label map as the channels of the autoencoder, and the decoded channels as scores again.

Up to four classes are colours of three channels, as in a photograph. More classes have a channel each.
"""

from __future__ import annotations

import torch

from sdseg_monai.errors import InputError
from sdseg_monai.networks.device import without_autocast

LOGIT_GAIN = 5.0  # sigmoid(5) = 0.993 on a colour: Dice and cross-entropy then gain little from more
MOST_COLOURS = 4  # corners of a cube that are equally far from each other
MOST_CLASSES = 128  # TotalSegmentator's label maps have 118


def class_codes(num_classes: int) -> torch.Tensor:
    """Return the code of each class, its value in each channel of the mask image.

    Two classes are black and white, as in the paper. Three or four are colours, corners of a cube that are equally far
    from each other: half-way between two colours lies no third one. There is no fifth such corner. So more classes have
    a channel each (one-hot): with colours, a blurred edge between two classes would be decoded as a third class.

    Args:
        num_classes: K, including the background.

    Returns:
        [K, 3] with values -1 and 1, or, for more than :data:`MOST_COLOURS` classes, [K, K] with values 0 and 1;
        float32, on the CPU.

    Raises:
        InputError: K is not from 2 to :data:`MOST_CLASSES`.

    Example:
        >>> class_codes(3)
        tensor([[-1., -1., -1.],
                [-1.,  1.,  1.],
                [ 1., -1.,  1.]])
        >>> class_codes(14).shape
        torch.Size([14, 14])
    """
    if not 2 <= num_classes <= MOST_CLASSES:
        raise InputError(f"num_classes={num_classes}: expected 2 to {MOST_CLASSES}, the background included")
    # on the CPU even where a network is built on the meta device: no file of a part holds the codes
    if is_one_hot(num_classes):
        return torch.eye(num_classes, dtype=torch.float32, device="cpu")
    colours = [(-1, -1, -1), (1, 1, 1)]
    if num_classes > 2:
        colours = [(-1, -1, -1), (-1, 1, 1), (1, -1, 1), (1, 1, -1)][:num_classes]
    return torch.tensor(colours, dtype=torch.float32, device="cpu")


def is_one_hot(num_classes: int) -> bool:
    """Tell whether each of so many classes has a channel of its own; the decoded channels are then logits."""
    return num_classes > MOST_COLOURS


def check_channels(num_classes: int, mask_channels: int) -> None:
    """Check that the mask image of an autoencoder has the channels of so many classes.

    Args:
        num_classes: K, including the background.
        mask_channels: C of the autoencoder.

    Raises:
        InputError: it has others, or K is not possible.
    """
    channels = class_codes(num_classes).shape[1]
    if mask_channels == channels:
        return
    remedy = f"set network_def#autoencoder#num_classes to {num_classes}"
    if is_one_hot(num_classes):
        remedy += (
            " and train that autoencoder with train_autoencoder.json, or segment one class in a pass "
            "(recipe/one_pass_per_class.json)"
        )
    raise InputError(
        f"{num_classes} classes need {channels} channels of a mask image, but the mask autoencoder has "
        f"{mask_channels}: {remedy}"
    )


def mask_to_image(mask: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """Turn a label map into the mask image, the autoencoder's input: each pixel gets the code of its class.

    Args:
        mask: class of each pixel, [B, 1, H, W] in {0..K-1}; a binary mask if there are two classes.
        codes: [K, C], from :func:`class_codes`.

    Returns:
        [B, C, H, W], in the dtype of ``codes``: colours in [-1, 1], or one-hot channels of 0 and 1.

    Example:
        >>> mask_to_image(torch.tensor([[[[0, 1]]]]), class_codes(2))[0, :, 0]
        tensor([[-1.,  1.],
                [-1.,  1.],
                [-1.,  1.]])
    """
    return codes.to(mask.device)[mask[:, 0].long()].movedim(-1, 1).contiguous()


def class_logits(mask_image: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """Return one logit per class for a decoded mask image.

    Where each class has a channel of its own, the decoder gives the logits. The logit of a colour falls with the
    squared distance between the pixel and the colour, as if each colour were the centre of a Gaussian. The scale is
    such that for a pixel exactly on a colour the next class is ``LOGIT_GAIN`` lower. With two classes the difference of
    the logits is ``LOGIT_GAIN`` times the mean of the three channels.

    Args:
        mask_image: decoded, [B, C, H, W]: colours, about [-1, 1] and not clamped, or logits.
        codes: [K, C], from :func:`class_codes`.

    Returns:
        [B, K, H, W], float32.
    """
    if is_one_hot(len(codes)):
        return mask_image.float()
    codes = codes.to(mask_image.device, torch.float32)
    # -|x - c|^2 without its term |x|^2, which is the same for all classes; autocast would round 2 x.c to bfloat16
    with without_autocast(mask_image):
        inner_products = torch.einsum("bchw,kc->bkhw", mask_image.float(), codes)
    squared_norms = (codes**2).sum(dim=1).view(1, -1, 1, 1)
    square_distance = 12 if len(codes) == 2 else 8  # between any two colours
    return LOGIT_GAIN / square_distance * (2 * inner_products - squared_norms)


def score_from_mask_image(mask_image: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """Turn a decoded mask image into scores.

    Args:
        mask_image: decoded, [B, C, H, W]: colours, about [-1, 1] and not clamped, or logits.
        codes: [K, C], from :func:`class_codes`.

    Returns:
        float32 in [0, 1]. With two classes the foreground's score, [B, 1, H, W]: each channel is mapped from [-1, 1] to
        [0, 1] and clamped, then the three are averaged (official-behaviour, section 2). With more classes [B, K, H, W],
        which sum to 1: the softmax of :func:`class_logits`, of colours after their channels were clamped.
    """
    if len(codes) == 2:
        return ((mask_image.float() + 1) / 2).clamp(0, 1).mean(dim=1, keepdim=True)
    if not is_one_hot(len(codes)):
        mask_image = mask_image.float().clamp(-1, 1)
    return class_logits(mask_image, codes).softmax(dim=1)


def classes_from_score(score: torch.Tensor) -> torch.Tensor:
    """Return the class of each pixel for its scores, as MONAI's ``AsDiscrete`` does by threshold or argmax.

    Args:
        score: the foreground's, [B, 1, ...] in [0, 1], or one per class, [B, K, ...].

    Returns:
        [B, 1, ...], uint8: 1 where the foreground's score is 0.5 or more, or the class with the highest score.

    Example:
        >>> classes_from_score(torch.tensor([[[0.2, 0.5, 0.9]]]))
        tensor([[[0, 1, 1]]], dtype=torch.uint8)
    """
    if score.shape[1] == 1:
        return (score >= 0.5).to(torch.uint8)
    # argmax across memory takes 20 times as long on a CPU; as there, the first of equal scores wins
    highest, classes = score[:, :1], torch.zeros_like(score[:, :1], dtype=torch.uint8)
    for value in range(1, score.shape[1]):
        score_of_class = score[:, value : value + 1]
        classes.masked_fill_(score_of_class > highest, value)
        highest = torch.maximum(highest, score_of_class)
    return classes


def score_margin(score: torch.Tensor) -> torch.Tensor:
    """Return the margin by which each pixel's class is ahead of the next class: how sure the class is.

    With three or four classes the margin says how much farther, as squared distances, the second-nearest colour is than
    the nearest: 1 on a colour, 0 half-way between two. With two classes, scored by one channel, this is twice the
    distance of the score from 0.5. With more classes it is the difference of the two highest logits, 1 from
    ``LOGIT_GAIN`` on. With one pass per class it is half the difference of the two highest class maps, 1 where these
    are 1 and -1. It depends on the scores alone, so it can be computed after they were resized.

    Args:
        score: the foreground's, [B, 1, ...] in [0, 1], or one per class, [B, K, ...], which sum to 1.

    Returns:
        [B, 1, ...] in [0, 1].
    """
    if score.shape[1] == 1:
        return (2 * score - 1).abs()
    log_scores = score.topk(2, dim=1).values.clamp_min(torch.finfo(torch.float32).tiny).log()
    return ((log_scores[:, :1] - log_scores[:, 1:]) / LOGIT_GAIN).clamp(0, 1)
