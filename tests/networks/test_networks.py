import pytest
import torch
from diffusers import DDIMScheduler

from sdseg_monai.errors import InputError
from sdseg_monai.losses import SDSegLoss
from sdseg_monai.networks import (
    CrossAttentionUNet,
    DenoisingUNet,
    MaskAutoencoder,
    PixelSegmenter,
    SDSeg,
    SDSegOutput,
    TinyMaskAutoencoder,
    TinyVisionEncoder,
    VisionEncoder,
)
from sdseg_monai.networks.codes import score_from_mask_image, score_margin
from sdseg_monai.networks.unet import Float32Conv2d
from sdseg_monai.weights import load_weights, save_tensors
from tests.makers.networks import make_network

IMAGE = torch.randn(3, 3, 32, 16, generator=torch.Generator().manual_seed(1))
MASK = (torch.rand(3, 1, 32, 16, generator=torch.Generator().manual_seed(2)) > 0.5).float()
CLASSES = torch.randint(3, (3, 1, 32, 16), generator=torch.Generator().manual_seed(3)).float()
SEEDS = torch.tensor([5, 6, 7])


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_full_sizes_have_the_official_parameter_counts():
    with torch.device("meta"):
        assert count(MaskAutoencoder()) == 83_653_863
        assert count(MaskAutoencoder().encoder) == 34_163_592
        assert count(MaskAutoencoder().decoder) == 49_490_179
        assert count(VisionEncoder()) == 34_163_628
        assert count(DenoisingUNet()) == 294_973_828
        assert count(DenoisingUNet(in_channels=4)) == 294_966_916


def test_unet_has_eight_heads_everywhere_and_a_norm_in_the_middle():
    unet = make_network().unet
    attentions = [m for m in unet.modules() if type(m).__name__ == "Attention"]
    assert attentions and all(a.heads == 4 for a in attentions)
    assert all(a.group_norm is not None for a in attentions)


def test_image_latent_has_influence_from_the_start():
    network = SDSeg(
        MaskAutoencoder([8, 8], 1, 4, 4), VisionEncoder([8, 8], 1, 4, 4), DenoisingUNet(8, 4, [16], [True], 1, 4, 8)
    ).eval()
    z, t = torch.randn(2, 4, 8, 8), torch.tensor([3, 900])
    with torch.no_grad():
        first, second = (network.unet.predict(z, torch.randn_like(z), t) for _ in range(2))
    assert not torch.allclose(first, second, atol=1e-3)


def test_score_is_the_composition_of_the_parts(network):
    z = torch.randn(1, 4, 8, 4)
    t = torch.full((3,), 999)
    noisy = z.expand(3, -1, -1, -1)
    prediction = network.unet.predict(noisy, network.encode_image(IMAGE), t)
    decoded = network.decode(network.estimate_latent(noisy, prediction, t))
    score = network(IMAGE, z)
    assert score.shape == (3, 1, 32, 16)
    torch.testing.assert_close(score, ((decoded + 1) / 2).clamp(0, 1).mean(1, keepdim=True))


def test_score_is_a_pure_function_of_inputs_and_seed(network):
    state = torch.get_rng_state()
    first = network(IMAGE)
    torch.manual_seed(99)
    assert torch.equal(first, network(IMAGE))
    network.seed = 1
    assert not torch.equal(first, network(IMAGE))
    torch.set_rng_state(state)


def test_score_does_not_depend_on_the_rest_of_the_batch(network):
    together = network(IMAGE)
    alone = torch.cat([network(image[None]) for image in IMAGE])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


def test_training_forward_keeps_the_diffusion_identities(network):
    output = network(IMAGE, mask=MASK, seeds=SEEDS)
    assert isinstance(output, SDSegOutput)
    torch.testing.assert_close(output.latent, network.encode_mask(MASK))
    # with the true noise, Eq. 2 gives the true latent back, whatever timestep the seeds drew
    again = network(IMAGE, mask=MASK, seeds=SEEDS)
    assert output.noise is not None and again.noise is not None
    assert torch.equal(output.noise, again.noise) and torch.equal(output.latent_pred, again.latent_pred)
    single = network(IMAGE[1:2], mask=MASK[1:2], seeds=SEEDS[1:2])
    torch.testing.assert_close(single.noise, output.noise[1:2])
    torch.testing.assert_close(single.latent_pred, output.latent_pred[1:2], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("prediction_type", ["sample", "v_prediction"])
def test_zero_start_trains_what_inference_runs(prediction_type):
    network = make_network(prediction_type=prediction_type, start_noise="zeros").eval()
    output = network(IMAGE, mask=MASK, seeds=SEEDS)
    assert output.noise is None and output.noise_pred is None
    score = ((network.decode(output.latent_pred) + 1) / 2).clamp(0, 1).mean(1, keepdim=True)
    torch.testing.assert_close(score, network(IMAGE))
    with pytest.raises(ValueError, match="zeros"):
        network(IMAGE, torch.zeros(1, 4, 8, 4))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start_noise": "zeros"}, "nothing to predict"),
        ({"prediction_type": "noise"}, "epsilon, sample, v_prediction"),
        ({"start_noise": "random"}, "shared, zeros"),
        ({"mask_latent": "mode"}, "mean, sample"),
        ({"train_timesteps": "first"}, "all, last"),
        ({"num_classes": 1}, "expected 2 to 128"),
        ({"num_classes": 129}, "expected 2 to 128"),
        ({"prediction_type": "sample", "start_noise": "zeros", "num_inference_steps": 2}, "use 1"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make_network(**options)


def test_parts_that_do_not_fit_are_refused():
    autoencoder, unet = MaskAutoencoder([8, 8], 1, 4, 4), DenoisingUNet(8, 4, [16], [True], 1, 4, 8)
    with pytest.raises(ValueError, match="same number of block_out_channels"):
        SDSeg(autoencoder, VisionEncoder([8, 8, 8], 1, 4, 4), unet)
    with pytest.raises(ValueError, match="expected 8"):
        SDSeg(autoencoder, VisionEncoder([8, 8], 1, 4, 4), DenoisingUNet(4, 4, [16], [True], 1, 4, 8))
    with pytest.raises(InputError, match="5 classes need 5 channels of a mask image, but the mask autoencoder has 3"):
        SDSeg(autoencoder, VisionEncoder([8, 8], 1, 4, 4), unet, num_classes=5)
    many = MaskAutoencoder([8, 8], 1, 4, 4, num_classes=5)
    with pytest.raises(InputError, match="2 classes need 3 channels of a mask image, but the mask autoencoder has 5"):
        SDSeg(many, VisionEncoder([8, 8], 1, 4, 4), unet)
    assert SDSeg(many, VisionEncoder([8, 8], 1, 4, 4), unet, num_classes=5).num_classes == 5
    with pytest.raises(ValueError, match="one per level"):
        DenoisingUNet(8, 4, [16], [True, True], 1, 4, 8)
    with pytest.raises(ValueError, match="num_heads=3"):
        DenoisingUNet(8, 4, [16], [True], 1, 3, 8)


def test_an_image_that_does_not_divide_is_refused(network):
    with pytest.raises(ValueError, match="multiples of 8"):
        network(torch.zeros(1, 3, 20, 16))


def test_half_a_training_call_is_refused(network):
    with pytest.raises(ValueError, match="both mask and seeds"):
        network(IMAGE, mask=MASK)


@pytest.mark.parametrize(
    ("num_classes", "start"),
    [
        (2, "shared"),
        (3, "zeros"),
        *(pytest.param(*both, marks=pytest.mark.slow) for both in ((2, "zeros"), (3, "shared"))),
    ],
)
def test_torch_export_gives_the_same_score(start, num_classes):
    options = {"prediction_type": "sample", "start_noise": "zeros"} if start == "zeros" else {}
    network = make_network(num_classes=num_classes, **options).eval()
    inputs = [(IMAGE,)] if start == "zeros" else [(IMAGE,), (IMAGE, torch.randn(1, 4, 8, 4))]
    with torch.no_grad():
        for arguments in inputs:
            exported = torch.export.export(network, arguments).module()
            torch.testing.assert_close(exported(*arguments), network(*arguments), atol=1e-5, rtol=0)


def test_torchscript_trace_gives_the_same_score_every_time(network):
    with torch.no_grad():
        traced = torch.jit.trace(network, IMAGE, check_trace=False)
        for _ in range(2):
            torch.testing.assert_close(traced(IMAGE), network(IMAGE), atol=1e-5, rtol=0)


def test_autoencoder_is_frozen_and_stays_in_evaluation_mode():
    network = make_network().train()
    assert network.unet.training and not network.autoencoder.training
    assert not any(p.requires_grad for p in network.autoencoder.parameters())
    assert all(p.requires_grad for p in network.trained_parts.parameters())
    names = {name.split(".")[0] for name in network.state_dict()}
    assert names == {"autoencoder", "vision_encoder", "unet", "scale_factor"}


def test_unmeasured_scale_shows():
    fresh = SDSeg(
        MaskAutoencoder([8, 8], 1, 4, 4), VisionEncoder([8, 8], 1, 4, 4), DenoisingUNet(8, 4, [16], [True], 1, 4, 8)
    )
    assert torch.isnan(fresh.scale_factor)
    assert torch.isnan(fresh.encode_mask(torch.ones(1, 1, 16, 16))).all()


def test_dropout_reaches_the_vision_encoder():
    encoder = VisionEncoder([8, 16], 1, 4, 4, dropout=0.5).train()
    image = torch.randn(1, 3, 16, 16)
    assert not torch.equal(encoder(image), encoder(image))
    assert torch.equal(encoder.eval()(image), encoder(image))


def test_bfloat16_costs_little_because_the_last_steps_run_in_float32(network):
    z, t = torch.randn(2, 4, 8, 8), torch.full((2,), 999)
    image_latent = torch.randn(2, 4, 8, 8)

    def latent(conv):
        network.unet.conv_out = conv
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            prediction = network.unet.predict(z, image_latent, t)
            return prediction.dtype, network.estimate_latent(z, prediction, t)

    guarded = network.unet.conv_out
    assert isinstance(guarded, Float32Conv2d)
    plain = torch.nn.Conv2d(guarded.in_channels, guarded.out_channels, 3, padding=1)
    plain.load_state_dict(guarded.state_dict())
    with torch.no_grad():
        exact = network.estimate_latent(z, network.unet.predict(z, image_latent, t), t)
    guarded_dtype, with_guard = latent(guarded)
    plain_dtype, without_guard = latent(plain)
    assert guarded_dtype == torch.float32 and plain_dtype == torch.bfloat16
    # rounding the prediction to bfloat16 alone: an error of up to 2^-9 relative, times 38.66
    rounded = network.estimate_latent(z, network.unet.predict(z, image_latent, t).bfloat16(), t)
    assert (rounded - exact).square().mean().sqrt() > 0.005
    assert (without_guard - exact).square().mean() > (with_guard - exact).square().mean()


@pytest.mark.parametrize("num_classes", [2, 3])
def test_whole_network_in_bfloat16_still_ends_in_float32(num_classes):
    network = make_network(num_classes=num_classes).eval()
    exact = network.schedule.coefficients(torch.tensor([999]))
    low = network.bfloat16()
    assert all(map(torch.equal, low.schedule.coefficients(torch.tensor([999])), exact))
    z, t = torch.randn(1, 4, 8, 8).bfloat16(), torch.tensor([999])
    assert low.unet.predict(z, z, t).dtype == torch.float32
    assert low.estimate_latent(z, low.unet.predict(z, z, t), t).dtype == torch.float32
    score = low(IMAGE.bfloat16())
    assert score.dtype == torch.float32 and torch.isfinite(score).all()
    assert torch.isfinite(low.encode_mask(CLASSES.clamp_max(num_classes - 1))).all()


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("steps", [1, 4])
def test_reverse_process_is_that_of_diffusers_ddim(prediction_type, steps):
    network = make_network(prediction_type=prediction_type, num_inference_steps=steps).eval()
    scheduler = DDIMScheduler(
        *(1000, 0.0015, 0.0155, "scaled_linear"),
        prediction_type=prediction_type,
        clip_sample=False,
        timestep_spacing="trailing",
    )
    scheduler.set_timesteps(steps)
    assert scheduler.timesteps.tolist() == network.schedule.reverse_timesteps(steps)
    noise = torch.randn(1, 4, 8, 4, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        image_latent = network.encode_image(IMAGE[:1])
        ours = list(network.reverse(image_latent, noise))
        latent = noise
        for mine, t in zip(ours, scheduler.timesteps, strict=True):
            step = scheduler.step(network.unet.predict(latent, image_latent, t[None]), t, latent)
            torch.testing.assert_close(mine, step.pred_original_sample, rtol=1e-3, atol=1e-3)
            latent = step.prev_sample
        expected = network.decode_score(ours[-1])
        torch.testing.assert_close(network(IMAGE[:1], noise), expected)


def test_a_number_of_reverse_steps_out_of_range_is_refused(network):
    for steps in (-1, 1001):
        with pytest.raises(ValueError, match="expected 1 to 1000"):
            list(network.reverse(torch.zeros(1, 4, 8, 8), num_steps=steps))


def test_a_sampled_mask_latent_has_the_posteriors_spread_and_depends_on_the_seed_alone():
    network = make_network(mask_latent="sample")
    output = network(IMAGE, mask=MASK, seeds=SEEDS)
    assert torch.equal(output.latent, network(IMAGE, mask=MASK, seeds=SEEDS).latent)
    posterior = network.autoencoder.encode((2 * MASK - 1).expand(-1, 3, -1, -1)).latent_dist
    deviation = (output.latent / network.scale_factor - posterior.mean) / posterior.std
    assert 0.8 < deviation.std() < 1.2 and deviation.mean().abs() < 0.3
    # independent of the noise of the same seed
    assert torch.corrcoef(torch.stack([deviation.flatten(), output.noise.flatten()]))[0, 1].abs() < 0.3


def test_a_frozen_vision_encoder_is_not_trained():
    network = make_network(train_vision_encoder=False).train()
    assert list(network.trained_parts) == ["unet"] and not network.vision_encoder.training
    SDSegLoss()(network(IMAGE, mask=MASK, seeds=SEEDS), MASK).backward()
    assert all(p.grad is None for p in network.vision_encoder.parameters())
    assert network.unet.conv_in.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("segmentation_weight", [0.0, 1.0])
@pytest.mark.parametrize("tiny", [False, True])
def test_a_trained_decoder_changes_and_its_encoder_does_not(tiny, segmentation_weight):
    options = {"prediction_type": "sample", "start_noise": "zeros", "train_decoder": True, "num_classes": 3}
    network = (tiny_sdseg if tiny else make_network)(**options).train()
    decoding = {"decoder"} if tiny else {"post_quant_conv", "decoder"}
    assert set(network.trained_parts) == {"vision_encoder", "unet", *decoding}
    assert not network.autoencoder.training  # no dropout, no statistics: it is frozen in all but its weights
    before = {name: tensor.clone() for name, tensor in network.autoencoder.state_dict().items()}
    loss = SDSegLoss(segmentation_weight=segmentation_weight, decode_logits=network.decode_logits)
    optimizer = torch.optim.SGD(network.trained_parts.parameters(), lr=0.1)
    loss(network(IMAGE, mask=CLASSES, seeds=SEEDS), CLASSES).backward()
    optimizer.step()
    after = network.autoencoder.state_dict()
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == (decoding if segmentation_weight else set())


def tiny_sdseg(**options):
    torch.manual_seed(0)
    network = SDSeg(
        TinyMaskAutoencoder([8, 8, 8], [1, 1, 1]),
        TinyVisionEncoder([8, 8, 8], [1, 1, 1]),
        DenoisingUNet(8, 4, [16, 32], [False, True], 1, 4, 8),
        **options,
    )
    network.scale_factor.fill_(1)
    return network


def test_tiny_autoencoder_serves_as_any_other():
    network = tiny_sdseg()
    assert network(IMAGE).shape == (3, 1, 32, 16)
    SDSegLoss()(network(IMAGE, mask=MASK, seeds=SEEDS), MASK).backward()
    assert network.encode_mask(MASK).shape == (3, 4, 8, 4)
    with pytest.raises(ValueError, match="no posterior"):
        tiny_sdseg(mask_latent="sample")(IMAGE, mask=MASK, seeds=SEEDS)


def test_cross_attention_sees_the_image_and_nothing_else_changes():
    torch.manual_seed(0)
    unet = CrossAttentionUNet(4, 4, 4, [16, 32], [True, True], 1, 4, 8)
    network = SDSeg(MaskAutoencoder([8, 16, 16], 1, 4, 4), VisionEncoder([8, 16, 16], 1, 4, 4), unet)
    network.scale_factor.fill_(0.5)
    z, t = torch.randn(2, 4, 8, 8), torch.tensor([3, 900])
    with torch.no_grad():
        first = network.unet.predict(z, torch.randn_like(z), t)
        assert first.shape == z.shape and not torch.allclose(first, network.unet.predict(z, torch.randn_like(z), t))
        # tokens carry no position: their order does not matter
        image_latent = torch.randn_like(z)
        shuffled = image_latent.flatten(2)[..., torch.randperm(64)].view_as(z)
        torch.testing.assert_close(
            network.unet.predict(z, image_latent, t), network.unet.predict(z, shuffled, t), atol=1e-5, rtol=1e-4
        )
    SDSegLoss()(network(IMAGE, mask=MASK, seeds=SEEDS), MASK).backward()
    with pytest.raises(ValueError, match="input and cross-attention channels"):
        SDSeg(network.autoencoder, network.vision_encoder, CrossAttentionUNet(8, 4, 4, [16], [True], 1, 4, 8))


def class_conditional(num_classes=3, **options):
    torch.manual_seed(0)
    unet = DenoisingUNet(8, 4, [16, 32], [False, True], 1, 4, 8, num_class_embeds=num_classes)
    network = SDSeg(MaskAutoencoder([8, 16, 16], 1, 4, 4), VisionEncoder([8, 16, 16], 1, 4, 4), unet, **options)
    network.scale_factor.fill_(0.5)
    return network


def test_class_conditional_network_gives_one_score_per_class():
    network = class_conditional().eval()
    noise = torch.randn(1, 4, 8, 4)
    with torch.no_grad():
        score = network(IMAGE, noise)
        maps = []
        for index in range(3):
            *_, latent = network.reverse(network.encode_image(IMAGE), noise, class_labels=torch.full((3,), index))
            maps.append((-1 if index == 0 else 1) * network.decode(latent).mean(1, keepdim=True))
    assert score.shape == (3, 3, 32, 16)
    torch.testing.assert_close(score.sum(1), torch.ones(3, 32, 16))
    # as sure as the maps are far apart: 1 where they are 1 and -1
    best, second = torch.cat(maps, 1).topk(2, dim=1).values.unbind(1)
    torch.testing.assert_close(score_margin(score)[:, 0], ((best - second) / 2).clamp(0, 1), atol=1e-5, rtol=1e-4)
    assert torch.equal(score.argmax(1), torch.cat(maps, 1).argmax(1))
    with pytest.raises(InputError, match="class embedding has 3: set the config's num_classes to 3"):
        SDSeg(network.autoencoder, network.vision_encoder, network.unet, num_classes=4)


def arguments_of_unet(network):
    """Return a list that fills with (timesteps, class labels) of each pass of the U-Net."""
    calls = []
    network.unet.register_forward_pre_hook(lambda _, args: calls.append((args[1], args[2])))
    return calls


def test_class_conditional_training_takes_one_seeded_class_of_each_sample():
    network = class_conditional().eval()
    calls = arguments_of_unet(network)
    image, mask, seeds = IMAGE.repeat(8, 1, 1, 1), CLASSES.repeat(8, 1, 1, 1), torch.arange(24)
    with torch.no_grad():
        output = network(image, mask=mask, seeds=seeds)
        again = network(image.flip(0), mask=mask.flip(0), seeds=seeds.flip(0))
        from_latent = network(image, mask=mask, seeds=seeds, latent=torch.zeros_like(output.latent))
    (_, classes), (_, reversed_classes), _ = calls
    assert set(classes.tolist()) == {0, 1, 2} and torch.equal(reversed_classes.flip(0), classes)
    for target, labels, index in zip(output.mask, mask, classes.tolist(), strict=True):
        assert torch.equal(target, (labels > 0 if index == 0 else labels == index).float())
    torch.testing.assert_close(output.latent, network.encode_mask(output.mask))
    assert torch.equal(again.mask.flip(0), output.mask)
    assert torch.equal(
        from_latent.latent, output.latent
    )  # a latent that was kept is of all classes, not of the one drawn


@pytest.mark.parametrize("make", [class_conditional, make_network])
def test_several_classes_can_be_learned(make):
    network = make(num_classes=3, prediction_type="sample", start_noise="zeros").train()
    loss = SDSegLoss(segmentation_weight=1.0, decode_logits=network.decode_logits)
    optimizer = torch.optim.Adam(network.trained_parts.parameters(), lr=3e-3)
    image = CLASSES - 1 + 0.1 * IMAGE  # shows the classes
    values = []
    for _ in range(12):
        optimizer.zero_grad()
        values.append(loss(network(image, mask=CLASSES, seeds=SEEDS), CLASSES))
        values[-1].backward()
        optimizer.step()
    assert set(loss.parts) == {"latent", "segmentation"}
    assert values[-1] < 0.9 * values[0] and all(torch.isfinite(value) for value in values)


def test_several_classes_share_one_pass():
    network = make_network(num_classes=3).eval()
    calls = arguments_of_unet(network)
    with torch.no_grad():
        score = network(IMAGE)
        assert len(calls) == 1 and score.shape == (3, 3, 32, 16)
        *_, latent = network.reverse(network.encode_image(IMAGE))
        torch.testing.assert_close(score, score_from_mask_image(network.decode(latent), network.class_codes))
    torch.testing.assert_close(score.sum(1), torch.ones(3, 32, 16))
    output = network(IMAGE, mask=CLASSES, seeds=SEEDS)
    assert torch.equal(output.mask, CLASSES)
    torch.testing.assert_close(output.latent, network.encode_mask(CLASSES))
    assert not torch.equal(output.latent, network.encode_mask((CLASSES > 0).float()))


def test_a_latent_that_was_kept_stands_for_the_mask():
    network = make_network(num_classes=3).eval()
    latent = network.encode_mask(CLASSES, scale=False)
    torch.testing.assert_close(latent * network.scale_factor, network.encode_mask(CLASSES))
    encoded, from_latent = (
        network(IMAGE, mask=CLASSES, seeds=SEEDS, latent=cached_latent) for cached_latent in (None, latent)
    )
    for name, tensor in encoded._asdict().items():
        torch.testing.assert_close(getattr(from_latent, name), tensor)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(network(IMAGE, mask=CLASSES, seeds=SEEDS, latent=2 * latent).latent, encoded.latent)


@pytest.mark.parametrize("num_classes", [2, 4])
def test_weights_for_another_number_of_classes_are_refused(num_classes, tmp_path):
    for mine, theirs in ((3, num_classes), (num_classes, 3)):
        save_tensors(tmp_path / "model.pt", make_network(num_classes=theirs).state_dict())
        with pytest.raises(InputError, match=r"model\.pt: not the weights of this network .*class_codes") as caught:
            load_weights(make_network(num_classes=mine), tmp_path / "model.pt")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("prediction_type", ["epsilon", "sample"])
def test_training_at_the_last_timestep_alone(prediction_type):
    network = make_network(train_timesteps="last", prediction_type=prediction_type)
    calls = arguments_of_unet(network)
    output = network(IMAGE, mask=MASK, seeds=SEEDS)
    make_network_all = make_network(prediction_type=prediction_type)
    all_steps = arguments_of_unet(make_network_all)
    make_network_all(IMAGE, mask=MASK, seeds=SEEDS)
    assert calls[0][0].tolist() == [999] * 3 and all_steps[0][0].tolist() != [999] * 3
    assert (output.noise is not None) == (prediction_type == "epsilon")


def test_pixel_segmenter_trains_on_logits_and_segments_to_scores():
    network = PixelSegmenter(torch.nn.Conv2d(3, 1, 1))
    torch.testing.assert_close(network(IMAGE), network(IMAGE, mask=MASK, seeds=SEEDS).sigmoid())
    several = PixelSegmenter(torch.nn.Conv2d(3, 4, 1))
    torch.testing.assert_close(several(IMAGE), several(IMAGE, mask=MASK, seeds=SEEDS).softmax(1))
    assert several(IMAGE).shape == (3, 4, 32, 16)
    assert [n for n, _ in network.trained_parts.named_parameters()] == ["backbone.weight", "backbone.bias"]
