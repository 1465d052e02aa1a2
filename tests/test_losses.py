import math

import pytest
import torch
from torch.nn import functional as F

from sdseg_monai.errors import InputError
from sdseg_monai.losses import MaskAutoencoderLoss, PresentClassesLoss, SDSegLoss, SegmentationLoss
from sdseg_monai.networks import SDSegOutput
from sdseg_monai.networks.codes import LOGIT_GAIN, MOST_COLOURS, class_codes, class_logits, mask_to_image
from sdseg_monai.schedule import NoiseSchedule
from tests.makers.networks import make_network


@pytest.mark.parametrize("t", [0, 100, 500, 999])
def test_the_two_terms_are_one_error_in_two_scales(t):
    # official-behaviour, fact 2: |n^ - n| = sqrt(SNR_t) |z0^ - z0|
    schedule, timesteps = NoiseSchedule(), torch.tensor([t] * 3)
    latent, noise, noise_pred = (torch.randn(3, 4, 8, 8) for _ in range(3))
    noisy = schedule.add_noise(latent, noise, timesteps)
    latent_pred = schedule.estimate_latent(noisy, noise_pred, timesteps, "epsilon")
    loss = SDSegLoss()
    mask = torch.zeros(3, 1, 64, 64)
    total = loss(SDSegOutput(latent, latent_pred, noise, noise_pred, mask), mask)
    a, b = (c[0].item() for c in schedule.coefficients(timesteps))
    assert loss.parts["noise"].item() == pytest.approx(a / b * loss.parts["latent"].item(), rel=1e-4)
    assert total.item() == pytest.approx((1 + b / a) * loss.parts["noise"].item(), rel=1e-4)


def test_latent_weight_is_lambda():
    mask, zeros, ones = torch.zeros(1, 1, 64, 64), torch.zeros(1, 4, 8, 8), torch.ones(1, 4, 8, 8)
    output = SDSegOutput(zeros, ones, zeros, ones, mask)
    assert SDSegLoss(latent_weight=3)(output, mask).item() == pytest.approx(4)
    assert SDSegLoss(latent_weight=0)(output, mask).item() == pytest.approx(1)


def test_sample_prediction_has_no_noise_term():
    loss = SDSegLoss()
    mask = torch.zeros(1, 1, 64, 64)
    loss(SDSegOutput(torch.zeros(1, 4, 8, 8), torch.ones(1, 4, 8, 8), None, None, mask), mask)
    assert set(loss.parts) == {"latent"}


def test_segmentation_term_needs_a_decoder():
    with pytest.raises(ValueError, match="decode"):
        SDSegLoss(segmentation_weight=1.0)


def test_a_decoder_that_nothing_would_train_is_refused():
    with pytest.raises(InputError, match="only the segmentation term trains the decoder"):
        SDSegLoss(train_decoder=True)
    SDSegLoss(segmentation_weight=1.0, decode_logits=make_network().decode_logits, train_decoder=True)


def test_a_training_without_any_term_is_refused():
    network = make_network(prediction_type="sample", start_noise="zeros")
    mask = torch.ones(1, 1, 16, 16)
    output = network(torch.randn(1, 3, 16, 16), mask=mask, seeds=torch.tensor([1]))
    with pytest.raises(InputError, match="nothing is left to learn"):
        SDSegLoss(latent_weight=0)(output, mask)


def test_segmentation_gradient_passes_the_frozen_decoder_beyond_the_clamp():
    network = make_network(prediction_type="sample", start_noise="zeros")
    loss = SDSegLoss(latent_weight=0, segmentation_weight=1.0, decode_logits=lambda z: 50 * network.decode_logits(z))
    mask = (torch.rand(2, 1, 16, 16) > 0.5).float()
    loss(network(torch.randn(2, 3, 16, 16), mask=mask, seeds=torch.tensor([1, 2])), mask).backward()
    assert network.unet.conv_out.weight.grad.abs().max() > 0
    assert network.vision_encoder.out.weight.grad.abs().max() > 0
    assert all(p.grad is None for p in network.autoencoder.parameters())


def test_mask_logit_is_zero_where_the_score_is_one_half():
    even = torch.stack([torch.ones(16, 16), -torch.ones(16, 16), torch.zeros(16, 16)])[None]
    mask = torch.zeros(1, 1, 16, 16)

    def loss(mask_image):
        return SegmentationLoss()(class_logits(mask_image, class_codes(2)), mask)

    assert loss(even) == loss(torch.zeros(1, 3, 16, 16))
    right, wrong = -torch.ones(1, 3, 16, 16), torch.ones(1, 3, 16, 16)
    assert loss(right) < loss(0 * right) < loss(wrong)


def test_segmentation_loss_contains_the_binary_cross_entropy_of_the_logit():
    mask_image, mask = torch.full((1, 3, 4, 4), 0.3), torch.ones(1, 1, 4, 4)
    p = torch.sigmoid(torch.tensor(0.3 * LOGIT_GAIN)).item()
    dice = 1 - 2 * 16 * p / (16 * p + 16)
    logits = class_logits(mask_image, class_codes(2))
    assert SegmentationLoss()(logits, mask).item() == pytest.approx(dice - math.log(p), rel=1e-3)


def test_segmentation_loss_of_several_classes_has_the_dice_of_the_foreground_alone():
    mask = torch.tensor([0.0, 0, 0, 0, 1, 1, 2, 2]).view(1, 1, 2, 4)
    share = torch.tensor([0.5, 0.3, 0.2])  # of each pixel, whatever its class
    dice = [1 - 2 * 2 * p / (8 * p + 2) for p in (0.3, 0.2)]
    cross_entropy = -(4 * math.log(0.5) + 2 * math.log(0.3) + 2 * math.log(0.2)) / 8
    logits = share.log().view(1, 3, 1, 1).expand(1, 3, 2, 4)
    assert SegmentationLoss()(logits, mask).item() == pytest.approx(sum(dice) / 2 + cross_entropy, rel=1e-3)


@pytest.mark.parametrize("num_classes", [2, 3, 14])
def test_right_classes_cost_less_than_wrong_ones(num_classes):
    codes = class_codes(num_classes)
    mask = (torch.arange(64) % num_classes).view(1, 1, 8, 8).float()

    def loss(classes):
        gain = LOGIT_GAIN if num_classes > MOST_COLOURS else 1  # the channels of many classes are their logits
        return SegmentationLoss()(class_logits(gain * mask_to_image(classes, codes), codes), mask)

    halfway = SegmentationLoss()(torch.zeros(1, num_classes, 8, 8), mask)
    assert loss(mask) < 0.3 * halfway and halfway < loss((mask + 1) % num_classes)


def test_the_loss_looks_at_the_target_of_the_step_and_not_at_the_label():
    network = make_network(num_classes=3, prediction_type="sample", start_noise="zeros")
    loss = SDSegLoss(segmentation_weight=1.0, decode_logits=network.decode_logits)
    image, mask = torch.randn(2, 3, 16, 16), torch.randint(3, (2, 1, 16, 16)).float()
    output = network(image, mask=mask, seeds=torch.tensor([1, 2]))
    assert loss(output, mask) == loss(output, torch.zeros_like(mask))
    assert loss(output, mask) != loss(output._replace(mask=torch.zeros_like(mask)), mask)


def test_autoencoder_loss_rewards_the_codes_of_several_classes():
    network, codes = make_network(num_classes=3).autoencoder, class_codes(3)
    mask = torch.randint(3, (2, 1, 16, 16), generator=torch.Generator().manual_seed(0)).float()
    output = network(mask_to_image(mask, codes), seeds=torch.tensor([1, 2]))
    loss = MaskAutoencoderLoss(0.0, num_classes=3)
    perfect = output._replace(reconstruction=mask_to_image(mask, codes))
    swapped = output._replace(reconstruction=mask_to_image((3 - mask) % 3, codes))  # 1 and 2
    assert loss(perfect, mask) < loss(output, mask) and loss(perfect, mask) < loss(swapped, mask)
    assert set(loss.parts) == {"l1", "segmentation", "kl"}


def test_autoencoder_loss_rewards_reconstruction_and_a_narrow_posterior():
    network = make_network().autoencoder
    mask = (torch.rand(2, 1, 16, 16) > 0.5).float()
    output = network((2 * mask - 1).expand(-1, 3, -1, -1), seeds=torch.tensor([1, 2]))
    perfect = output._replace(reconstruction=(2 * mask - 1).expand(-1, 3, -1, -1))
    assert MaskAutoencoderLoss(0.0)(perfect, mask) < MaskAutoencoderLoss(0.0)(output, mask)
    assert MaskAutoencoderLoss(1.0)(perfect, mask) > MaskAutoencoderLoss(0.0)(perfect, mask)


def test_each_class_of_a_mask_counts_alike_and_an_absent_one_only_by_its_scores():
    mask = torch.zeros(1, 1, 32, 32)
    mask[..., :16, :16], mask[..., 20:22, 20:22] = 1, 2

    def loss(prediction):
        return PresentClassesLoss()(20 * F.one_hot(prediction[:, 0].long(), 6).movedim(-1, 1), mask).item()

    assert loss(mask) < 1e-3
    dice = []
    for value in (1, 2):
        missed = torch.where(mask == value, 0, mask)
        dice.append(loss(missed) - 20 * (mask == value).float().mean().item())  # without the cross-entropy
    assert dice == pytest.approx([0.5, 0.5], abs=1e-2)
    assert PresentClassesLoss()(torch.randn(2, 6, 8, 8), torch.zeros(2, 1, 8, 8)).isfinite()
