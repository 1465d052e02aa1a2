"""Uncertainty: exactly known for networks of one convolution, and by its properties for a real one."""

import json
import os
import shutil
import subprocess

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from scipy.stats import spearmanr

from sdseg_monai import cli
from sdseg_monai.errors import InputError
from sdseg_monai.inference.samples import SIGNALS, Ensemble, Flips, Seeds
from sdseg_monai.inference.segmenter import Segmenter
from sdseg_monai.inference.uncertainty import (
    SampledSegmentation,
    mask_disagreement,
    measure_uncertainty,
    predictive_entropy,
)
from sdseg_monai.io.volumes import Volume, read_volume
from tests.makers.label_server import needs_label_env
from tests.makers.networks import make_network
from tests.makers.places import LABEL_BIN, ROOT
from tests.makers.volumes import write_case

INFERENCE = ROOT / "bundles" / "hippocampus_sdseg" / "configs" / "inference.json"
METADATA = INFERENCE.with_name("metadata.json")
EDGE = 16  # voxels along each axis of the network's images, so that exact cases need no resizing
GOOD, BROKEN = ("hippocampus_001", "hippocampus_003", "hippocampus_004"), "broken"
WIDTH = 8  # voxels along each edge of the box that the exact networks see
ENCODER = {"block_out_channels": [8, 16, 16], "layers_per_block": 1, "latent_channels": 4, "norm_num_groups": 4}
UNET = {"in_channels": 8, "out_channels": 4, "block_out_channels": [16, 32], "attention_levels": [False, True]}
UNET |= {"layers_per_block": 1, "num_heads": 4, "norm_num_groups": 8}
SDSEG = {"autoencoder": ENCODER, "vision_encoder": ENCODER, "unet": UNET}  # of make_network


def write_bundle(folder, network_def, network, slice_axis=1, num_classes=2):
    """Write a bundle of ``network``, the embedded one's but for its sizes, and return its folder."""
    config = json.loads(INFERENCE.read_text())
    config |= {"network_def": network_def, "size": [EDGE, EDGE], "slice_axis": slice_axis, "num_classes": num_classes}
    for name in ("configs", "models"):
        (folder / name).mkdir(parents=True)
    (folder / "configs" / "inference.json").write_text(json.dumps(config))
    (folder / "configs" / "metadata.json").write_text(METADATA.read_text())
    torch.save(network.state_dict(), folder / "models" / "model.pt")
    return folder


def write_sdseg(folder, start_noise, num_classes=2):
    """Write a bundle of a real network with random weights, which decide nothing but do so in every voxel."""
    network_def = json.loads(INFERENCE.read_text())["network_def"]
    for part, sizes in SDSEG.items():
        network_def[part] |= sizes
    options = {"prediction_type": "sample", "start_noise": start_noise}
    network = make_network(num_classes=num_classes, **options)
    return write_bundle(folder, network_def | options, network, num_classes=num_classes)


def convolution(folder, kernel, slice_axis=1):
    """Return a segmenter that cuts at 0.5 what one convolution with ``kernel`` [3, 3] makes of each slice."""
    network_def = {
        "_target_": "sdseg_monai.networks.pixel.PixelSegmenter",
        "backbone": {
            "_target_": "torch.nn.Conv2d",
            "in_channels": 3,
            "out_channels": 1,
            "kernel_size": 3,
            "padding": 1,
        },
    }
    backbone = torch.nn.Conv2d(3, 1, 3, padding=1)
    with torch.no_grad():
        backbone.weight.copy_(torch.as_tensor(kernel, dtype=torch.float32))
        backbone.bias.fill_(-0.1)  # beyond the border the padding is 0, which is background
    network = torch.nn.ModuleDict({"backbone": backbone})
    return Segmenter(write_bundle(folder, network_def, network, slice_axis), device="cpu")


def write_box(path, codes="RAS"):
    """Write a box in the middle of a cube, stored in another orientation but the same in the world."""
    array = np.zeros((EDGE,) * 3, np.float32)
    middle = slice((EDGE - WIDTH) // 2, (EDGE + WIDTH) // 2)
    array[middle, middle, middle] = 100
    image = nib.Nifti1Image(array, np.diag([2.0, 2, 2, 1]))
    nib.save(image.as_reoriented(ornt_transform(io_orientation(image.affine), axcodes2ornt(codes))), path)
    return path


@pytest.fixture(scope="module", params=[2, 3], ids=["two_classes", "three_classes"])
def noisy_bundle(request, tmp_path_factory):
    """A bundle that starts from noise."""
    return write_sdseg(tmp_path_factory.mktemp("noisy") / "tiny", "shared", request.param)


@pytest.fixture(scope="module")
def noisy(noisy_bundle):
    return Segmenter(noisy_bundle, device="cpu")


@pytest.fixture(scope="module", params=[2, 3], ids=["two_classes", "three_classes"])
def bundle(request, tmp_path_factory):
    """A bundle that starts from zeros."""
    return write_sdseg(tmp_path_factory.mktemp("deterministic") / "tiny", "zeros", request.param)


@pytest.fixture(scope="module")
def deterministic(bundle):
    return Segmenter(bundle, device="cpu")


@pytest.fixture(scope="module")
def other_weights(deterministic, tmp_path_factory):
    """Other weights of the ``deterministic`` network."""
    state = deterministic.network.state_dict()
    state["unet.conv_out.bias"] = state["unet.conv_out.bias"] + 0.5
    path = tmp_path_factory.mktemp("weights") / "other.pt"
    torch.save(state, path)
    return path


@pytest.fixture(scope="module")
def volume(tmp_path_factory):
    folder = tmp_path_factory.mktemp("volume")
    write_case(folder, "a", shape=(20, 9, 18))
    return folder / "images" / "a.nii.gz"


def join(samples, image):
    """Return the whole of what ``samples`` says of ``image``, [S, K, X, Y, Z]."""
    return torch.cat(list(samples.iter_slabs(image)), dim=samples.segmenter.inferer.slice_axis + 2)


def disagreement(segmenter, path):
    return measure_uncertainty(Flips(segmenter), path).disagreement


# of masks and probabilities


def test_disagreement_of_masks_is_known():
    box = np.zeros((4, 6, 5), np.uint8)
    box[:2] = 1
    empty, other, half = np.zeros_like(box), 1 - box, box.copy()
    half[1] = 0
    assert mask_disagreement([box, box, box]) == 0 == mask_disagreement([empty, empty])
    assert mask_disagreement([box, other]) == 1 == mask_disagreement([box, empty]) == mask_disagreement([empty, box])
    assert mask_disagreement([box, half]) == pytest.approx(1 - 2 / 3)
    assert mask_disagreement([box, half, empty]) == pytest.approx((1 / 3 + 1 + 1) / 3)


def test_disagreement_is_the_mean_over_the_classes_that_occur():
    one = np.zeros((4, 6, 5), np.uint8)
    one[:2], one[2:] = 1, 3
    other = np.where(one == 3, 0, one)
    assert mask_disagreement([one, other]) == pytest.approx((0 + 1) / 2)  # agreed in 1, not in 3; 2 is in neither
    assert mask_disagreement([one, np.where(one == 1, 3, 1)]) == 1


@settings(max_examples=30, deadline=None)
@given(st.lists(arrays(np.uint8, (3, 2, 2), elements=st.integers(0, 2)), min_size=2, max_size=4), st.randoms())
def test_disagreement_of_masks_has_its_properties(masks, random):
    value = mask_disagreement(masks)
    assert 0 <= value <= 1
    assert (value == 0) == all(np.array_equal(masks[0], mask) for mask in masks)
    renamed = np.array([0, 2, 1])
    shuffled = random.sample(masks, len(masks))
    assert mask_disagreement([renamed[mask[::-1]] for mask in shuffled]) == pytest.approx(value)


@pytest.mark.parametrize("masks", [[], [np.zeros((2, 2, 2))], [np.zeros((2, 2, 2)), np.zeros((2, 2, 3))]])
def test_masks_that_cannot_be_compared_are_refused(masks):
    with pytest.raises(ValueError, match="at least two, all of one shape"):
        mask_disagreement(masks)


@settings(max_examples=30, deadline=None)
@given(arrays(np.float32, (5, 2, 1, 2), elements=st.floats(0, 1, width=32)), st.integers(2, 5))
def test_entropy_is_between_certainty_and_equality(weights, num_classes):
    weights = weights[:num_classes] + 1e-3
    probabilities = weights / weights.sum(0)

    def entropy_of(probabilities):
        return predictive_entropy(torch.from_numpy(probabilities[1:])).numpy()

    entropy = entropy_of(probabilities)
    assert entropy.shape == (2, 1, 2) and entropy.dtype == np.float32
    assert (entropy >= 0).all() and (entropy <= 1).all()
    # whichever class is the background, and more where the probabilities are nearer to each other
    np.testing.assert_allclose(entropy_of(probabilities[::-1].copy()), entropy, atol=1e-5)
    assert (entropy_of(0.5 * probabilities + 0.5 / num_classes) >= entropy - 1e-6).all()
    certain = np.eye(num_classes, dtype=np.float32)[..., None, None]
    assert (entropy_of(certain) == 0).all()
    np.testing.assert_allclose(entropy_of(np.full_like(probabilities, 1 / num_classes)), 1, atol=1e-6)


def test_volumes_give_a_range():
    volumes = np.array([[1.0, 0, 4], [2, 0, 4], [3, 0, 4]])
    voxel = np.zeros((1, 1, 1), np.float32)
    rest = {"labels": voxel, "scores": voxel[None], "confidence": voxel, "entropy": voxel, "disagreement": 0.0}
    rest |= {"affine": np.eye(4), "segments": {}, "source": Volume(voxel, np.eye(4))}
    result = SampledSegmentation(**rest, sample_volumes=volumes)
    np.testing.assert_array_equal(result.volume_range, [[1, 0, 4], [3, 0, 4]])
    assert result.relative_volume_range == pytest.approx((1 + 0) / 2)  # the class in the middle never occurs
    assert SampledSegmentation(**rest, sample_volumes=np.zeros((2, 2))).relative_volume_range == 0


# of networks that are exactly known


@pytest.mark.parametrize("slice_axis", [0, 1, 2])
def test_flips_are_along_the_first_axis_in_the_slice(tmp_path, slice_axis):
    """A network that moves what it sees by a voxel along an axis disagrees with itself only if that one is mirrored.

    The first axis in a slice is left-right, and the next one in sagittal slices.
    """
    path = write_box(tmp_path / "a.nii.gz")
    along, across = np.zeros((3, 3)), np.zeros((3, 3))
    along[0, 1] = across[1, 0] = 1
    moved = convolution(tmp_path / "along", along, slice_axis)
    assert disagreement(moved, path) == pytest.approx(2 / WIDTH)
    assert disagreement(convolution(tmp_path / "across", across, slice_axis), path) == 0


@pytest.mark.parametrize("codes", ["LAS", "PIR", "SLA"])
def test_flips_are_the_patients_left_and_right_however_the_file_is_stored(tmp_path, codes):
    kernel = np.zeros((3, 3))
    kernel[0, 1] = 1
    segmenter = convolution(tmp_path / "bundle", kernel)
    path = write_box(tmp_path / "a.nii.gz", codes)
    assert disagreement(segmenter, path) == pytest.approx(2 / WIDTH)


@pytest.mark.parametrize("codes", ["RAS", "SLA"])
def test_volumes_and_means_are_known(tmp_path, codes):
    """The box moves by a voxel to either side: both samples have its volume, their mean is half at its two ends.

    The result is what the network makes of the volume itself, of which it is certain.
    """
    kernel = np.zeros((3, 3))
    kernel[0, 1] = 100  # scores are 0 or 1
    segmenter = convolution(tmp_path / "bundle", kernel)
    result = measure_uncertainty(Flips(segmenter), write_box(tmp_path / "a.nii.gz", codes))
    np.testing.assert_allclose(result.sample_volumes, np.full((2, 1), (2 * WIDTH) ** 3 / 1000))
    assert result.relative_volume_range == 0
    assert result.labels.sum() == WIDTH**3
    inside = (slice(1, -1),) * 3  # at the border the padding comes in
    entropy, confidence = result.entropy[inside], result.confidence[inside]
    assert (confidence > 0.98).all()
    assert (entropy > 0.99).sum() == 4 * WIDTH**2 and (entropy[entropy <= 0.99] < 0.01).all()


def test_a_network_without_left_and_right_agrees_with_itself_on_any_volume(tmp_path, volume):
    kernel = np.array([[0.1, 0.3, 0.2], [0.2, 0.5, -0.4], [0.1, 0.3, 0.2]])
    segmenter = convolution(tmp_path / "bundle", kernel)
    assert segmenter.segment(volume).labels.any() and disagreement(segmenter, volume) < 1e-3


# of a real network


@pytest.mark.parametrize("signal", SIGNALS)
def test_a_real_network_has_one_uncertainty(noisy, volume, signal):
    """The same again and whatever the batch, and the segmenter is as it was."""
    before = noisy.segment(volume).scores
    samples = SIGNALS[signal](noisy)
    result = measure_uncertainty(samples, volume)
    assert 0.01 < result.disagreement < 0.99 and result.relative_volume_range > 0
    assert result.sample_volumes.shape == (5 if signal == "seeds" else 2, len(before))
    assert result.entropy.shape == before.shape[1:] and result.entropy.dtype == np.float32
    assert (result.entropy >= 0).all() and (result.entropy <= 1).all()
    assert measure_uncertainty(samples, volume).disagreement == result.disagreement
    np.testing.assert_array_equal(noisy.segment(volume).scores, before)
    try:
        for batch_size in (1, 64):
            noisy.configure(batch_size=batch_size)
            other = measure_uncertainty(samples, volume)
            assert other.disagreement == pytest.approx(result.disagreement, abs=1e-2)
            np.testing.assert_allclose(other.entropy, result.entropy, atol=1e-4)
            np.testing.assert_allclose(other.scores, result.scores, atol=1e-5)
    finally:
        noisy.configure()


def test_flips_compare_the_mask_that_is_written(deterministic, volume):
    item = deterministic.prepare(volume)
    masks = [deterministic.finish(item, score).labels for score in join(Flips(deterministic), item["image"])]
    np.testing.assert_array_equal(masks[0], deterministic.segment(volume).labels)
    result = measure_uncertainty(Flips(deterministic), volume)
    np.testing.assert_array_equal(result.labels, masks[0])
    assert result.disagreement == mask_disagreement(masks) > 0
    num_classes = len(result.scores)
    voxels = [[(mask == value).sum() for value in range(1, num_classes + 1)] for mask in masks]
    voxel_ml = abs(np.linalg.det(nib.load(volume).affine[:3, :3])) / 1000
    np.testing.assert_allclose(result.sample_volumes, np.array(voxels) * voxel_ml, rtol=1e-6)
    np.testing.assert_allclose(result.volumes, result.sample_volumes[0])


def test_the_mean_of_the_samples_is_the_result(bundle, deterministic, other_weights, volume):
    image = deterministic.prepare(volume)["image"]
    other = Segmenter(bundle, device="cpu", weights=other_weights)
    members = [deterministic, other]
    scores = join(Ensemble(members), image)
    for member, score in zip(members, scores, strict=True):
        torch.testing.assert_close(score, member.predict(image), atol=1e-6, rtol=0)
    result = measure_uncertainty(Ensemble(members), volume)
    expected = deterministic.finish(deterministic.prepare(volume), scores.mean(0))
    np.testing.assert_allclose(result.scores, expected.scores, atol=1e-6)
    assert result.disagreement > 0


def test_one_model_twice_is_no_ensemble_to_disagree(deterministic, volume):
    single = deterministic.segment(volume)
    result = measure_uncertainty(Ensemble([deterministic, deterministic]), volume)
    assert result.disagreement == 0 == result.relative_volume_range
    np.testing.assert_array_equal(result.sample_volumes[0], result.sample_volumes[1])
    for name in ("labels", "scores", "confidence"):
        np.testing.assert_array_equal(getattr(result, name), getattr(single, name))
    expected = predictive_entropy(torch.from_numpy(single.scores))
    np.testing.assert_allclose(result.entropy, expected, atol=1e-5)


@pytest.mark.parametrize("num_samples", [2, 5])
def test_seeds_encode_every_slab_once(noisy, volume, num_samples):
    calls, batch_size = [], noisy.inferer.batch_size
    hook = noisy.network.vision_encoder.register_forward_hook(lambda module, given, result: calls.append(len(result)))
    try:
        measure_uncertainty(Seeds(noisy, num_samples), volume)
    finally:
        hook.remove()
    image = noisy.prepare(volume)["image"]
    slices = image.shape[noisy.inferer.slice_axis + 1]
    assert slices > batch_size and sum(calls) == slices and len(calls) == -(-slices // batch_size)


def test_seeds_are_those_of_the_per_slice_noise(noisy, volume):
    image = noisy.prepare(volume)["image"]
    scores = join(Seeds(noisy, 3), image)
    assert len(scores) == 3 and not any(torch.equal(scores[0], other) for other in scores[1:])
    torch.testing.assert_close(join(Seeds(noisy, 2), image), scores[:2], atol=1e-6, rtol=0)
    repeated = image[:, :, :1].expand(-1, -1, 2, -1)
    first, second = join(Seeds(noisy), repeated)[0].unbind(2)
    assert not torch.allclose(first, second, atol=1e-3)
    try:
        noisy.configure(seed=7)
        assert not torch.allclose(join(Seeds(noisy, 3), image), scores, atol=1e-3)
    finally:
        noisy.configure()


def test_sources_that_say_nothing_are_refused(deterministic, noisy, tmp_path):
    for segmenter in (deterministic, convolution(tmp_path / "bundle", np.ones((3, 3)))):
        with pytest.raises(InputError, match="without start noise"):
            Seeds(segmenter)
    with pytest.raises(InputError, match="at least two"):
        Seeds(noisy, 1)
    with pytest.raises(InputError, match="at least two"):
        Ensemble([deterministic])


def test_a_bad_file_is_an_input_error(deterministic, tmp_path):
    (tmp_path / "a.nii.gz").write_bytes(b"no volume")
    with pytest.raises(InputError, match=r"a\.nii\.gz"):
        measure_uncertainty(Flips(deterministic), tmp_path / "a.nii.gz")


# of the command


def report(capsys, *arguments):
    code = cli.main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, json.loads(captured.out) if captured.out else {}, captured.err


def test_the_command_writes_the_mean_its_entropy_and_reports_the_volumes(
    bundle, deterministic, other_weights, tmp_path, volume, capsys
):
    mask, own = tmp_path / "out" / "mask.nii.gz", bundle / "models" / "model.pt"
    options = ["--bundle", bundle, "--device", "cpu", "--uncertainty", "ensemble", "--save-confidence"]
    options += ["--weights", own, "--weights", other_weights]
    code, reported, _ = report(capsys, "segment", volume, "-o", mask, *options)
    assert code == 0 and reported["samples"] == 2
    members = [deterministic, Segmenter(bundle, device="cpu", weights=other_weights)]
    expected = measure_uncertainty(Ensemble(members), volume)
    for path, array in (
        (mask, expected.labels),
        *((mask.with_name(f"mask_{name}.nii.gz"), expected.maps[name]) for name in ("entropy", "confidence")),
    ):
        np.testing.assert_allclose(read_volume(path).array, array, atol=1e-6)
    assert sorted(path.name for path in mask.parent.iterdir()) == [
        "mask.json",
        "mask.nii.gz",
        "mask_confidence.nii.gz",
        "mask_entropy.nii.gz",
    ]
    assert reported["disagreement"] == pytest.approx(expected.disagreement, abs=1e-4)
    ranges = [[of["smallest"], of["largest"]] for of in reported["volume_ml"].values()]
    np.testing.assert_allclose(np.transpose(ranges), expected.volume_range, atol=1e-4)
    counts = np.bincount(read_volume(mask).array.astype(int).ravel(), minlength=len(expected.scores) + 1)[1:]
    voxel_ml = abs(np.linalg.det(nib.load(mask).affine[:3, :3])) / 1000
    of_mask = [of["mask"] for of in reported["volume_ml"].values()]
    np.testing.assert_allclose(of_mask, counts * voxel_ml, atol=1e-4)


def test_the_command_takes_the_mean_of_seeds_and_may_abstain(noisy_bundle, tmp_path, volume, capsys):
    mask = tmp_path / "mask.nii.gz"
    options = ["--bundle", noisy_bundle, "--device", "cpu", "--uncertainty", "seeds", "--num-samples", 3, "--seed", 7]
    code, reported, _ = report(capsys, "segment", volume, "-o", mask, *options, "--abstain-below", 0.3)
    assert code == 0 and reported["samples"] == 3
    expected = measure_uncertainty(Seeds(Segmenter(noisy_bundle, device="cpu", seed=7), 3), volume)
    written = read_volume(mask).array
    np.testing.assert_array_equal(written, expected.abstain(0.3).labels)
    assert 0 < (written == reported["labels"]["unsure"]).mean() < 1
    low, high = expected.volume_range  # of whole masks: no volume is lost by abstaining
    np.testing.assert_allclose([of["smallest"] for of in reported["volume_ml"].values()], low, atol=1e-4)
    np.testing.assert_allclose([of["largest"] for of in reported["volume_ml"].values()], high, atol=1e-4)


def test_the_command_measures_a_folder_and_a_bad_case_does_not_stop_it(bundle, deterministic, tmp_path, volume, capsys):
    studies = tmp_path / "studies"
    studies.mkdir()
    for name in ("a", "b"):
        shutil.copy(volume, studies / f"{name}.nii.gz")
    (studies / "c.nii.gz").write_bytes(b"no volume")
    options = ["--bundle", bundle, "--device", "cpu", "--uncertainty", "flips"]
    code, reported, errors = report(capsys, "segment", studies, "-o", tmp_path / "out", *options)
    assert code == 1 and "c.nii.gz" in errors and reported["failed"] == 1
    assert sorted(reported["cases"]) == ["a.nii.gz", "b.nii.gz"]
    assert reported["cases"]["a.nii.gz"] == reported["cases"]["b.nii.gz"]
    np.testing.assert_array_equal(
        read_volume(tmp_path / "out" / "a.nii.gz").array, deterministic.segment(volume).labels, "flips change no mask"
    )
    written = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.nii.gz"))
    assert written == ["a.nii.gz", "b.nii.gz", "entropy/a.nii.gz", "entropy/b.nii.gz"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--uncertainty", "seeds"], "without start noise"),
        (["--uncertainty", "ensemble"], "at least two"),
        (["--uncertainty", "flips", "--num-samples", "3"], "--uncertainty seeds"),
        (["--weights", "OWN", "--weights", "OWN"], "--uncertainty ensemble"),
        (["--uncertainty", "ensemble", "--weights", "OWN", "--weights", "OWN"], "given twice"),
        (["--weights", "nothing.pt"], "nothing.pt"),
    ],
)
def test_the_command_refuses_what_cannot_be_compared(bundle, tmp_path, volume, capsys, options, message):
    own = str(bundle / "models" / "model.pt")
    options = [own if option == "OWN" else option for option in options]
    code, reported, errors = report(
        capsys, "segment", volume, "-o", tmp_path / "mask.nii.gz", "--bundle", bundle, "--device", "cpu", *options
    )
    assert code == 2 and not reported and message in errors and errors.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_the_entropy_replaces_no_input(bundle, tmp_path, volume, capsys):
    image = tmp_path / "a_entropy.nii.gz"
    shutil.copy(volume, image)
    before = image.read_bytes()
    options = ["--bundle", bundle, "--device", "cpu", "--uncertainty", "flips"]
    code, _, errors = report(capsys, "segment", image, "-o", tmp_path / "a.nii.gz", *options)
    assert code == 2 and "would be replaced" in errors
    assert image.read_bytes() == before and list(tmp_path.iterdir()) == [image]


# of the benchmark


@pytest.fixture(scope="module")
def benchmarks():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        yield


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=20))
def test_the_area_is_the_chance_of_a_higher_value(benchmarks, pairs):
    from judgement import auroc

    values, positive = (np.array(column) for column in zip(*pairs, strict=True))
    high, low = values[positive], values[~positive]
    if not (high.size and low.size):
        assert np.isnan(auroc(values, positive))
        return
    wins = (high[:, None] > low).mean() + (high[:, None] == low).mean() / 2
    assert auroc(values, positive) == pytest.approx(wins)


def test_calibration_and_rank_are_known(benchmarks):
    from judgement import calibration_error, rank_of_error

    right = np.array([True, True, True, False] * 10)
    assert calibration_error(np.full(40, 0.75), right) == pytest.approx(0)
    assert calibration_error(np.ones(40), right) == pytest.approx(0.25)
    assert calibration_error(np.where(right, 1.0, 0.0), right) == 0
    values, dice = np.random.default_rng(0).integers(0, 6, (2, 9))
    assert rank_of_error(values, dice) == pytest.approx(spearmanr(values, -dice).statistic)
    np.testing.assert_allclose(rank_of_error(np.stack([dice, -dice]), np.stack([dice, dice])), [-1, 1])
    assert rank_of_error(np.ones(len(dice)), dice) == 0  # all alike


def test_the_benchmark_fills_its_section(bundle, other_weights, benchmarks, tmp_path, monkeypatch):
    import uncertainty

    split = {"validation": ["a", "b", "c"], "test": ["d", "e", "f"]}
    for seed, name in enumerate("abcdef"):
        write_case(tmp_path, name, shape=(20, 5, 18), seed=seed)
    files = {
        split: [{kind: f"{kind}s/{name}.nii.gz" for kind in ("image", "label")} for name in names]
        for split, names in split.items()
    }
    (tmp_path / "datalist.json").write_text(json.dumps(files))
    document = tmp_path / "document.md"
    document.write_text("before\n<!-- embedded -->\n<!-- /embedded -->\nafter\n")
    command = ["--dataset_dir", tmp_path, "--datalist", tmp_path / "datalist.json", "--bundle", bundle]
    command += ["--document", document, "--weights", bundle / "models" / "model.pt", other_weights]
    monkeypatch.setattr("sys.argv", ["uncertainty.py", *map(str, command)])
    monkeypatch.setattr(uncertainty, "RESAMPLES", 10)
    uncertainty.main()
    text = document.read_text()
    assert text.startswith("before\n") and text.endswith("after\n")
    for row in ("| once |", "| flips |", "| ensemble of 2 |"):
        assert text.count(row) >= 4
    assert "weights: 2 of --weights" in text
    assert "seeds" not in text and "| 0 | 0.0% | 0.0% |" in text


# in the label environment


@pytest.fixture(scope="module")
def scored(hippocampus, tmp_path_factory):
    """What scoring and serving three real volumes and a broken one came to; see ``label_scoring.py``."""
    if not (LABEL_BIN / "python").is_file():
        pytest.skip(needs_label_env.kwargs["reason"])
    folder = tmp_path_factory.mktemp("label")
    for name in ("studies", "work"):
        (folder / name).mkdir()
    for case in GOOD:
        shutil.copy(hippocampus / "images" / f"{case}.nii.gz", folder / "studies")
    whole = (hippocampus / "images" / "hippocampus_006.nii.gz").read_bytes()
    (folder / "studies" / f"{BROKEN}.nii.gz").write_bytes(whole[: len(whole) // 2])
    bundle = write_sdseg(folder / "tiny", "zeros")
    done = subprocess.run(
        [
            *(LABEL_BIN / "python", ROOT / "tests" / "label" / "scoring_process.py"),
            *(folder / "studies", hippocampus / "labels", bundle, folder / "work"),
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.mark.shared
def test_scores_are_stored_one_by_one_and_a_bad_image_is_left_out(scored):
    assert scored["first"] == {"scored": 3, "failed": 1}
    assert scored["stored_one_by_one"] == [1, 2, 3]
    assert scored["scores"] == {**scored["measured"], BROKEN: None} and set(scored["measured"]) == set(GOOD)
    assert len(set(scored["measured"].values())) == 3
    assert sorted(scored["seen_by_the_server"]) == list(GOOD)


@pytest.mark.shared
def test_only_other_weights_are_a_reason_to_score_again(scored):
    assert scored["second"] == {"scored": 0, "failed": 1}
    assert scored["tuned"] == {"scored": 2, "failed": 1}
    changed = {case for case in GOOD if scored["tuned_scores"][case] != scored["scores"][case]}
    assert changed == {*GOOD} - {scored["labelled"]}


@pytest.mark.shared
def test_the_highest_score_is_served_first_and_nothing_twice_a_day(scored):
    by_score = sorted(GOOD, key=scored["scores"].get, reverse=True)
    assert scored["before"] == {"id": BROKEN, "score": None}  # none has a score
    assert scored["served"] == [{"id": case, "score": scored["scores"][case]} for case in (*by_score, BROKEN)]
    assert scored["when_all_were_served"]["id"] == by_score[0] == scored["another_strategy"]["id"]
    assert scored["days_later"]["id"] == by_score[1]  # the two that were served more than a day ago: by score again
    assert scored["after_the_label"]["id"] == max(by_score[1:], key=scored["tuned_scores"].get)
    assert scored["nothing_left"] is None


@pytest.mark.shared
def test_scoring_seeds_of_a_network_without_start_noise_is_refused(scored):
    assert "without start noise" in scored["seeds"]


@pytest.mark.shared
def test_two_processes_change_one_datastore_and_lose_nothing(scored):
    assert scored["two_processes"] == {"kept": 50, "label": "viewer"}
