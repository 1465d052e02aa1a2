import pytest
import torch
from diffusers import DDPMScheduler

from sdseg_monai.schedule import NoiseSchedule


@pytest.fixture
def schedule():
    return NoiseSchedule()


def test_published_values(schedule):
    # official-behaviour 1.6
    for t, expected in ((0, 0.9985), (100, 0.82882), (500, 0.15007), (999, 0.00066867)):
        assert schedule.sqrt_alphas_cumprod[t].square().item() == pytest.approx(expected, rel=2e-5)


def test_equals_diffusers_scaled_linear(schedule):
    scheduler = DDPMScheduler(1000, 0.0015, 0.0155, "scaled_linear", clip_sample=False)
    latent, noise, t = torch.randn(5, 4, 8, 8), torch.randn(5, 4, 8, 8), torch.tensor([0, 17, 500, 998, 999])
    torch.testing.assert_close(
        schedule.add_noise(latent, noise, t), scheduler.add_noise(latent, noise, t), rtol=1e-4, atol=1e-4
    )


def test_every_prediction_type_estimates_the_same_latent_and_noise(schedule):
    latent, noise, t = torch.randn(4, 4, 8, 8), torch.randn(4, 4, 8, 8), torch.tensor([0, 100, 500, 900])
    a, b = schedule.coefficients(t)
    noisy = schedule.add_noise(latent, noise, t)
    perfect = {"epsilon": noise, "sample": latent, "v_prediction": a * noise - b * latent}
    for kind, prediction in perfect.items():
        torch.testing.assert_close(schedule.estimate_latent(noisy, prediction, t, kind), latent, rtol=1e-3, atol=1e-4)
        estimate = schedule.estimate_noise(noisy, prediction, t, kind)
        if kind == "sample":
            assert estimate is None
        else:
            torch.testing.assert_close(estimate, noise, rtol=1e-3, atol=1e-4)


def test_last_step_amplifies_an_error_38_times(schedule):
    t = torch.tensor([999])
    zero = torch.zeros(1, 1, 1, 1)
    shift = schedule.estimate_latent(zero, torch.ones(1, 1, 1, 1), t, "epsilon").abs().item()
    assert shift == pytest.approx(38.659, rel=1e-4)
