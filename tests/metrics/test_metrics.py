import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.handlers import IgniteMetricHandler
from monai.metrics import DiceMetric
from safetensors.torch import load_file, save_file
from scipy import ndimage
from skimage.metrics import structural_similarity

from sdseg_monai.errors import InputError
from sdseg_monai.metrics import Lpips, TransUNetDice, measure_stability
from tests.makers.places import SHARED

LPIPS_WEIGHTS = SHARED / "weights" / "lpips-alexnet" / "lpips_alexnet.safetensors"
CONVOLUTIONS = {0: (64, 3, 11), 3: (192, 64, 5), 6: (384, 192, 3), 8: (256, 384, 3), 10: (256, 256, 3)}
SIDE = 112  # the smallest


def lpips_state():
    generator = torch.Generator().manual_seed(0)
    state = {}
    for i, (outputs, inputs, size) in CONVOLUTIONS.items():
        std = (2 / (inputs * size**2)) ** 0.5
        state[f"features.{i}.weight"] = std * torch.randn(outputs, inputs, size, size, generator=generator)
        state[f"features.{i}.bias"] = torch.zeros(outputs)
    for i, (outputs, _, _) in enumerate(CONVOLUTIONS.values()):
        state[f"lin{i}.weight"] = torch.rand(1, outputs, 1, 1, generator=generator)
    return state


@pytest.fixture(scope="module")
def random_lpips(tmp_path_factory):
    path = tmp_path_factory.mktemp("lpips") / "lpips.safetensors"
    save_file(lpips_state(), path)
    return Lpips(path)


@pytest.fixture(scope="module")
def lpips():
    if not LPIPS_WEIGHTS.is_file():
        pytest.skip(f"no weights at {LPIPS_WEIGHTS}; set SDSEG_SHARED")
    return Lpips(LPIPS_WEIGHTS)


def smooth_scores(seeds, slices, side=SIDE, noise=0.1):
    """One blob a slice, blurred, with noise of each seed's own."""
    rng = np.random.default_rng(0)
    blob = ndimage.gaussian_filter(rng.normal(size=(slices, side, side)), (0, 8, 8))
    blob = (blob - blob.min()) / (blob.max() - blob.min())
    return torch.from_numpy(np.clip(blob + noise * rng.normal(size=(seeds, *blob.shape)), 0, 1)).float()


# LPIPS


def plain_lpips(state, image, second_image):
    """LPIPS of two images [3, H, W] in float64 numpy, written from the formula alone."""

    def activations(x):
        x = (x - np.array([-0.030, -0.088, -0.188])[:, None, None]) / np.array([0.458, 0.448, 0.450])[:, None, None]
        for i, stride, padding, pool in [
            (0, 4, 2, False),
            (3, 1, 2, True),
            (6, 1, 1, True),
            (8, 1, 1, 0),
            (10, 1, 1, 0),
        ]:
            weight, bias = (state[f"features.{i}.{kind}"].double().numpy() for kind in ("weight", "bias"))
            if pool:
                x = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (1, 2))[:, ::2, ::2].max((-1, -2))
            x = np.pad(x, ((0, 0), (padding, padding), (padding, padding)))
            windows = np.lib.stride_tricks.sliding_window_view(x, weight.shape[2:], (1, 2))[:, ::stride, ::stride]
            x = np.maximum(np.einsum("ihwkl,oikl->ohw", windows, weight, optimize=True) + bias[:, None, None], 0)
            yield x / (np.sqrt((x**2).sum(0)) + 1e-10)

    heads = [state[f"lin{i}.weight"].double().numpy()[0] for i in range(5)]
    pairs = zip(heads, activations(image), activations(second_image), strict=True)
    return sum((head * (a - b) ** 2).sum(0).mean() for head, a, b in pairs)


@pytest.mark.shared
def test_lpips_is_the_formula_on_real_weights(lpips):
    generator = torch.Generator().manual_seed(0)
    image, second_image = (
        2 * torch.rand(2, 2, 3, 37, 45, generator=generator) - 1
    )  # odd sizes: the rows that strides leave out differ
    expected = [
        plain_lpips(load_file(LPIPS_WEIGHTS), *pair) for pair in zip(image.numpy(), second_image.numpy(), strict=True)
    ]
    np.testing.assert_allclose(lpips(image, second_image).numpy(), expected, rtol=1e-4)


@pytest.mark.shared
def test_lpips_is_zero_for_equals_symmetric_and_grows_with_noise(lpips):
    generator = torch.Generator().manual_seed(0)
    image = torch.nn.functional.interpolate(torch.rand(1, 3, 8, 8, generator=generator), size=64, mode="bilinear") - 0.5
    noise = torch.randn(1, 3, 64, 64, generator=generator)
    noisy = torch.cat([(image + level * noise).clamp(-1, 1) for level in (0, 0.05, 0.2, 0.5)])
    distances = lpips(image.expand(4, -1, -1, -1), noisy)
    assert distances[0] == 0
    assert (distances.diff() > 0.02).all()
    torch.testing.assert_close(lpips(noisy, image.expand(4, -1, -1, -1)), distances)


def test_lpips_is_never_trained(random_lpips):
    image = torch.zeros(1, 3, 64, 64, requires_grad=True)
    random_lpips(image, torch.rand(1, 3, 64, 64)).sum().backward()
    assert image.grad.abs().max() > 0
    assert not any(p.requires_grad for p in random_lpips.parameters())


@pytest.mark.parametrize("change", ["missing", "extra", "shape", "nan", "integer"])
def test_other_weights_are_refused(tmp_path, change):
    state = lpips_state()
    if change == "missing":
        del state["lin4.weight"]
    elif change == "extra":
        state["lin5.weight"] = torch.zeros(1)
    else:
        state["lin0.weight"] = {
            "shape": torch.zeros(1, 3, 1, 1),
            "nan": torch.tensor([float("nan"), *range(63)]).view(1, 64, 1, 1),
            "integer": torch.zeros(1, 64, 1, 1, dtype=torch.int64),
        }[change]
    save_file(state, tmp_path / "lpips.safetensors")
    with pytest.raises(InputError, match=r"not LPIPS weights|lin0.weight is no tensor of finite numbers"):
        Lpips(tmp_path / "lpips.safetensors")


def test_files_that_are_no_weights(tmp_path):
    path = tmp_path / "lpips.safetensors"
    with pytest.raises(InputError, match="no such file"):
        Lpips(path)
    save_file(lpips_state(), path)
    for content in (b"", b"text", path.read_bytes()[:-100]):
        path.write_bytes(content)
        with pytest.raises(InputError, match="not a readable safetensors file"):
            Lpips(path)


@pytest.mark.parametrize(
    ("image", "second_image", "message"),
    [
        (torch.zeros(2, 3, 64, 64), torch.zeros(1, 3, 64, 64), "same shape"),
        (torch.zeros(1, 1, 64, 64), torch.zeros(1, 1, 64, 64), r"\[B, 3, H, W\]"),
        (torch.zeros(1, 3, 64, 64), torch.full((1, 3, 64, 64), 255.0), r"from 255 to 255, expected \[-1, 1\]"),
        (torch.full((1, 3, 64, 64), float("nan")), torch.zeros(1, 3, 64, 64), "from nan"),
    ],
)
def test_lpips_refuses_other_images(random_lpips, image, second_image, message):
    with pytest.raises(ValueError, match=message):
        random_lpips(image, second_image)


# Dice by the official rule


def masks(*voxels):
    mask = torch.zeros(len(voxels), 1, 2, 2, 2)
    for case, indices in zip(mask, voxels, strict=True):
        case.view(-1)[list(indices)] = 1
    return mask


def test_official_dice_of_every_combination_of_empty_masks():
    prediction, label = masks({0, 1}, {0}, set(), set()), masks({1, 2, 3}, set(), {0}, set())
    scores = TransUNetDice()(prediction, label)
    torch.testing.assert_close(scores, torch.tensor([[0.4], [1.0], [0.0], [0.0]]))


def test_official_dice_accumulates_and_means_over_cases():
    metric = TransUNetDice()
    metric(masks({0}, {0}), masks({0}, {1}))
    metric(list(masks({0, 1})), list(masks({1, 2})))  # as decollated
    assert metric.aggregate().item() == pytest.approx(0.5)
    metric.reset()
    with pytest.raises(ValueError, match="no case"):
        metric.aggregate()


def test_official_dice_is_the_usual_one_where_nothing_is_empty():
    prediction, label = (torch.rand(2, 3, 1, 8, 8, 8, generator=torch.Generator().manual_seed(0)) > 0.5).float()
    torch.testing.assert_close(TransUNetDice()(prediction, label), DiceMetric()(prediction, label))


def test_official_dice_in_a_handler():
    engine = Engine(lambda _, batch: batch)
    IgniteMetricHandler(metric_fn=TransUNetDice()).attach(engine, "dice")
    engine.state.metric_details = {}
    state = engine.run([(masks({0}), masks({0})), (masks(set()), masks(set()))])
    assert state.metrics["dice"] == pytest.approx(0.5)
    assert state.metric_details["dice"].flatten().tolist() == [1, 0]


@pytest.mark.parametrize("shapes", [((1, 1, 4, 4), (1, 1, 4, 5)), ((1, 2, 4, 4), (1, 2, 4, 4)), ((1, 1), (1, 1))])
def test_official_dice_refuses_other_shapes(shapes):
    with pytest.raises(ValueError, match="expected the same"):
        TransUNetDice()(*(torch.zeros(shape) for shape in shapes))


# Stability


def plain_ms_ssim(a, b, window):
    """MS-SSIM of two images [H, W] by scipy, with five scales and a window cut from the Gaussian of sigma 1.5."""
    taps = np.exp(-((np.arange(window) - window // 2) ** 2) / 4.5)
    taps /= taps.sum()
    inner = (slice(window // 2, -(window // 2)),) * 2

    def blur(x):
        return ndimage.correlate1d(ndimage.correlate1d(x, taps, 0), taps, 1)[inner]

    result = 1.0
    for scale, weight in enumerate((0.0448, 0.2856, 0.3001, 0.2363, 0.1333)):
        mean_a, mean_b = blur(a), blur(b)
        variance = blur(a * a) - mean_a**2 + blur(b * b) - mean_b**2
        term = (2 * (blur(a * b) - mean_a * mean_b) + 0.03**2) / (variance + 0.03**2)
        if scale == 4:
            term = term * (2 * mean_a * mean_b + 0.01**2) / (mean_a**2 + mean_b**2 + 0.01**2)
        result *= term.mean() ** weight
        if scale == 4:
            return result
        a, b = (x.reshape(len(x) // 2, 2, -1, 2).mean((1, 3)) for x in (a, b))


@pytest.mark.parametrize(("side", "window"), [(112, 7), (128, 7), (176, 11), (256, 11)])
def test_measures_are_those_of_skimage_and_scipy(random_lpips, side, window):
    scores = smooth_scores(2, 1, side)
    for row, images in zip(measure_stability(scores, random_lpips), ((scores >= 0.5).float(), scores), strict=True):
        a, b = images[:, 0].double().numpy()
        assert row.ms_ssim_window == window
        assert row.psnr == pytest.approx(-10 * np.log10(((a - b) ** 2).mean()), rel=1e-5)
        options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0}
        assert row.ssim == pytest.approx(structural_similarity(a, b, **options), abs=1e-4)
        assert row.ms_ssim == pytest.approx(plain_ms_ssim(a, b, window), abs=1e-4)
        image, second_image = (2 * images - 1).expand(-1, 3, -1, -1)[:, None]
        assert row.lpips == pytest.approx(random_lpips(image, second_image).item(), rel=1e-5)
        assert (row.comparisons, row.identical) == (1, 0)


def test_dice_is_that_of_the_masks(random_lpips):
    scores = torch.zeros(2, 2, SIDE, SIDE)  # both slices are empty for the second seed, one for the first
    scores[0, 0, :10] = 0.5
    scores[1, 0, 5:15] = 0.9
    scores[1, 1] = 0.49
    rows = measure_stability(scores, random_lpips)
    assert [row.dice for row in rows] == pytest.approx([0.75, 0.75])  # of 0.5 and 1


def test_pairs_are_all_or_those_with_the_first(random_lpips):
    scores = smooth_scores(1, 1).repeat(4, 1, 1, 1)
    scores[0] = smooth_scores(1, 1, noise=0.3)  # only the first differs
    every, first = (measure_stability(scores, random_lpips, pairs)[1] for pairs in ("all", "first"))
    assert (every.comparisons, every.identical) == (6, 3)
    assert (first.comparisons, first.identical) == (3, 0)
    assert every.lpips == pytest.approx(first.lpips / 2, rel=1e-4)
    assert every.psnr == pytest.approx(first.psnr)
    assert 1 - every.ssim == pytest.approx((1 - first.ssim) / 2)


def test_identical_predictions_are_counted_and_never_infinite(random_lpips):
    scores = smooth_scores(1, 2).repeat(3, 1, 1, 1)
    for row in measure_stability(scores, random_lpips):
        assert row.psnr is None
        assert (row.comparisons, row.identical) == (6, 6)
        assert (row.ssim, row.ms_ssim, row.dice) == (1, 1, 1)
        assert row.lpips == pytest.approx(0, abs=1e-6)


def test_masks_may_be_identical_where_scores_are_not(random_lpips):
    scores = torch.stack([torch.full((1, SIDE, SIDE), value) for value in (0.5, 0.75)])
    mask, score = measure_stability(scores, random_lpips)
    assert (mask.kind, mask.psnr, mask.identical) == ("mask", None, 1)
    assert (score.kind, score.identical) == ("score", 0)
    assert score.psnr == pytest.approx(-20 * np.log10(0.25))


def test_more_pairs_than_fit_at_once_and_every_slice_are_means(random_lpips):
    scores = smooth_scores(7, 2)  # 21 pairs
    together = measure_stability(scores, random_lpips)[1]
    apart = [measure_stability(scores[:, [n]], random_lpips)[1] for n in range(2)]
    assert together.comparisons == 42
    for name in ("lpips", "psnr", "ssim", "ms_ssim", "dice"):
        assert getattr(together, name) == pytest.approx(np.mean([getattr(row, name) for row in apart]), rel=1e-6)
    pairs = [(i, j) for i in range(7) for j in range(i)]
    two_by_two = [measure_stability(scores[[i, j]][:, [0]], random_lpips)[1].psnr for i, j in pairs[:3]]
    expected = [-10 * np.log10(((scores[i, 0] - scores[j, 0]) ** 2).mean().item()) for i, j in pairs]
    assert two_by_two == pytest.approx(expected[:3], rel=1e-5)
    assert apart[0].psnr == pytest.approx(np.mean(expected), rel=1e-5)


@pytest.mark.parametrize("shape", [(2, 1, 111, 256), (2, 1, 64, 64)])
def test_slices_too_small_for_ms_ssim_are_refused(random_lpips, shape):
    with pytest.raises(ValueError, match="at least 112 along each side"):
        measure_stability(torch.zeros(shape), random_lpips)


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (torch.zeros(2, SIDE, SIDE), r"\[seeds, slices, H, W\]"),
        (torch.zeros(2, 1, SIDE, SIDE, dtype=torch.uint8), "expected floats"),
        (torch.zeros(1, 1, SIDE, SIDE), "1 seeds for 1 slices"),
        (torch.zeros(2, 0, SIDE, SIDE), "2 seeds for 0 slices"),
        (torch.full((2, 1, SIDE, SIDE), 1.01), r"from 1.01 to 1.01, expected \[0, 1\]"),
        (torch.full((2, 1, SIDE, SIDE), -0.01), r"expected \[0, 1\]"),
        (torch.full((2, 1, SIDE, SIDE), float("nan")), "scores from nan"),
    ],
)
def test_other_scores_are_refused(random_lpips, scores, message):
    with pytest.raises(ValueError, match=message):
        measure_stability(scores, random_lpips)


def test_other_pairs_are_refused(random_lpips):
    with pytest.raises(ValueError, match="pairs='every', expected all or first"):
        measure_stability(torch.zeros(2, 1, SIDE, SIDE), random_lpips, pairs="every")  # type: ignore[arg-type]
