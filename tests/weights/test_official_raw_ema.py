"""Official checkpoints whose raw and averaged weights differ: outputs, losses and gradients of the official code.

Each network reads the fixture's inputs. A training step draws its timesteps, noise and class by seeds; here these draws
are replaced by those with which the official code was run, and all that follows is the package's.
"""

import pytest
import torch

from sdseg_monai.losses import SDSegLoss
from sdseg_monai.networks.codes import class_codes, mask_to_image, score_from_mask_image
from sdseg_monai.weights import load_official
from sdseg_monai.weights.official import official_sources
from sdseg_monai.weights.transfer import take_tensors
from tests.makers.official import FIXTURE, KINDS, OfficialCase, draw_as_the_official_code, make_case, make_mask

TOLERANCE = 2e-5  # of the largest value, in float32 on the CPU
WEIGHTS = pytest.mark.parametrize("weights", ["raw", "ema"])
pytestmark = [
    pytest.mark.shared,
    pytest.mark.skipif(not FIXTURE.is_dir(), reason=f"no folder {FIXTURE}; set SDSEG_SHARED"),
]


@pytest.fixture(scope="module", params=KINDS)
def case(request, tmp_path_factory) -> OfficialCase:
    return make_case(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def networks(case):
    return {
        weights: load_official(case.checkpoint, num_heads=case.num_heads, use_ema=weights == "ema")
        for weights in ("raw", "ema")
    }


def check(actual, expected):
    assert actual.shape == expected.shape
    assert float((actual - expected).abs().max() / expected.abs().max()) <= TOLERANCE


def test_raw_and_averaged_weights_differ(networks):
    raw, ema = (networks[weights].unet.conv_in.weight for weights in ("raw", "ema"))
    assert float((raw - ema).detach().abs().max()) > 0.01


@torch.inference_mode()
def test_latents(case, networks):
    network, expected = networks["raw"], case.expected
    check(network.encode_image(expected["image"]), expected["image_latent"])
    posterior = network.autoencoder.encode(mask_to_image(expected["mask"][:, None], class_codes(2))).latent_dist
    check(posterior.mean, expected["mask_posterior_mean"])
    check(posterior.logvar, expected["mask_posterior_logvar"])
    z0 = network.encode_mask(expected["mask"][:, None], expected["posterior_noise"])
    check(z0, expected["z0"])
    check(network.schedule.add_noise(z0, expected["train_noise"], expected["timesteps"]), expected["z_t"])


@WEIGHTS
@torch.inference_mode()
def test_predicted_noise(case, networks, weights):
    inputs = [case.expected.get(name) for name in ("z_t", "image_latent", "timesteps", "classes")]
    check(networks[weights].unet.predict(*inputs), case.expected[f"{weights}.noise_pred"])


@WEIGHTS
@torch.inference_mode()
def test_from_noise_to_mask(case, networks, weights):
    """One step from t = 999: noise, latent, mask image and score of two classes, the classes of the pixels of more."""
    network, expected = networks[weights], case.expected
    score = network(expected["image"], expected["noise"])
    if network.class_conditional:
        equal = score.argmax(1) == expected[f"{weights}.classes"]
        assert float(equal.float().mean()) > 0.999
        return
    start = expected["noise"].expand(3, -1, -1, -1)
    last = torch.full((3,), 999)
    noise_pred = network.unet.predict(start, expected["image_latent"], last)
    check(noise_pred, expected[f"{weights}.noise_pred_t999"])
    latent = network.estimate_latent(start, noise_pred, last)
    check(latent, expected[f"{weights}.latent_pred"])
    check(network.decode(latent), expected[f"{weights}.decoded"])
    check(score_from_mask_image(expected[f"{weights}.decoded"], class_codes(2))[:, 0], expected[f"{weights}.score"])
    check(score[:, 0], expected[f"{weights}.score"])


@WEIGHTS
def test_losses_and_gradients(case, networks, weights, monkeypatch):
    draw_as_the_official_code(case, monkeypatch)
    network, expected = networks[weights], case.expected
    monkeypatch.setattr(network, "mask_latent", "sample")
    network.zero_grad()
    loss = SDSegLoss()
    mask = make_mask(expected)
    total = loss(network(expected["image"], mask=mask, seeds=torch.arange(3)), mask)
    check(total.detach(), expected[f"{weights}.loss"])
    for part in ("latent", "noise"):
        check(loss.parts[part], expected[f"{weights}.loss_{part}"])
    total.backward()
    official_gradients = {
        name.removeprefix(f"{weights}.grad."): value
        for name, value in expected.items()
        if name.startswith(f"{weights}.grad.")
    }
    sources = {
        name: source
        for name, source in official_sources(network, use_ema=False).items()
        if source.name in official_gradients
    }
    parameters = dict(network.named_parameters())
    assert len(sources) == 3 + 3  # one of the four is the fused query, key and value
    shapes = {name: parameters[name].shape for name in sources}
    for name, gradient in take_tensors(official_gradients, sources, shapes, case.num_heads).items():
        actual = parameters[name].grad
        assert actual is not None, name
        check(actual, gradient)
