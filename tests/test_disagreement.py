"""How much masks disagree: exactly known for networks of one convolution, and by its properties for a real one."""

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

from sdseg_monai.bundle import Segmenter
from sdseg_monai.disagreement import check_signal, flip_scores, mask_disagreement, measure_disagreement, seed_scores
from sdseg_monai.errors import InputError
from tests.conftest import ROOT, make_network, write_case
from tests.label_server import BIN, needs_label_env

INFERENCE = ROOT / "bundles" / "hippocampus_sdseg" / "configs" / "inference.json"
METADATA = INFERENCE.with_name("metadata.json")
EDGE = 16  # voxels along each axis of the network's images, so that exact cases need no resizing
GOOD, BROKEN = ("hippocampus_001", "hippocampus_003", "hippocampus_004"), "broken"
WIDTH = 8  # voxels along each edge of the box that the exact networks see
SDSEG = {
    "autoencoder": {"block_out_channels": [8, 16, 16], "norm_num_groups": 4},
    "vision_encoder": {"block_out_channels": [8, 16, 16], "norm_num_groups": 4},
    "unet": {"block_out_channels": [16, 32], "num_heads": 4},
}


def write_bundle(folder, network_def, network, slice_axis=1):
    """Write a bundle of ``network``, the embedded one's but for its sizes, and return its folder."""
    config = json.loads(INFERENCE.read_text())
    config |= {"network_def": network_def, "size": [EDGE, EDGE], "slice_axis": slice_axis}
    for name in ("configs", "models"):
        (folder / name).mkdir(parents=True)
    (folder / "configs" / "inference.json").write_text(json.dumps(config))
    (folder / "configs" / "metadata.json").write_text(METADATA.read_text())
    torch.save(network.state_dict(), folder / "models" / "model.pt")
    return folder


def write_sdseg(folder, start_noise):
    """Write a bundle of a real network with random weights, which decide nothing but do so in every voxel."""
    network_def = json.loads(INFERENCE.read_text())["network_def"]
    for part, sizes in SDSEG.items():
        network_def[part] |= sizes
    options = {"prediction_type": "sample", "start_noise": start_noise}
    return write_bundle(folder, network_def | options, make_network(**options))


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


@pytest.fixture(scope="module")
def noisy(tmp_path_factory):
    """A segmenter that starts from noise."""
    return Segmenter(write_sdseg(tmp_path_factory.mktemp("noisy") / "tiny", "shared"), device="cpu")


@pytest.fixture(scope="module")
def deterministic(tmp_path_factory):
    return Segmenter(write_sdseg(tmp_path_factory.mktemp("deterministic") / "tiny", "zeros"), device="cpu")


@pytest.fixture(scope="module")
def volume(tmp_path_factory):
    folder = tmp_path_factory.mktemp("volume")
    write_case(folder, "a", shape=(20, 9, 18))
    return folder / "images" / "a.nii.gz"


def test_disagreement_of_masks_is_known():
    box = np.zeros((4, 6, 5), np.uint8)
    box[:2] = 1
    empty, other, half = np.zeros_like(box), 1 - box, box.copy()
    half[1] = 0
    assert mask_disagreement([box, box, box]) == 0 == mask_disagreement([empty, empty])
    assert mask_disagreement([box, other]) == 1 == mask_disagreement([box, empty]) == mask_disagreement([empty, box])
    assert mask_disagreement([box, half]) == pytest.approx(1 - 2 / 3)
    assert mask_disagreement([box, half, empty]) == pytest.approx((1 / 3 + 1 + 1) / 3)


@settings(max_examples=30, deadline=None)
@given(st.lists(arrays(np.uint8, (3, 2, 2), elements=st.integers(0, 1)), min_size=2, max_size=4), st.randoms())
def test_disagreement_of_masks_has_its_properties(masks, random):
    value = mask_disagreement(masks)
    assert 0 <= value <= 1
    assert (value == 0) == all(np.array_equal(masks[0], mask) for mask in masks)
    shuffled = random.sample(masks, len(masks))
    assert mask_disagreement([mask[::-1].copy() for mask in shuffled]) == pytest.approx(value)


@pytest.mark.parametrize("masks", [[], [np.zeros((2, 2, 2))], [np.zeros((2, 2, 2)), np.zeros((2, 2, 3))]])
def test_masks_that_cannot_be_compared_are_refused(masks):
    with pytest.raises(ValueError, match="at least two, all of one shape"):
        mask_disagreement(masks)


@pytest.mark.parametrize("slice_axis", [0, 1, 2])
def test_flips_are_along_the_first_axis_in_the_slice(tmp_path, slice_axis):
    """A network that moves what it sees by a voxel along an axis disagrees with itself only if that one is mirrored.

    The first axis in a slice is left-right, and the next one in sagittal slices.
    """
    path = write_box(tmp_path / "a.nii.gz")
    along, across = np.zeros((3, 3)), np.zeros((3, 3))
    along[0, 1] = across[1, 0] = 1
    moved = convolution(tmp_path / "along", along, slice_axis)
    assert measure_disagreement(moved, path, "flips") == pytest.approx(2 / WIDTH)
    assert measure_disagreement(convolution(tmp_path / "across", across, slice_axis), path, "flips") == 0
    image = moved.prepare(path)["image"]
    for axis in range(3):
        one, other = flip_scores(moved, image, axis)
        assert torch.equal(one, other) == (axis != (1 if slice_axis == 0 else 0))


@pytest.mark.parametrize("codes", ["LAS", "PIR", "SLA"])
def test_flips_are_the_patients_left_and_right_however_the_file_is_stored(tmp_path, codes):
    kernel = np.zeros((3, 3))
    kernel[0, 1] = 1
    segmenter = convolution(tmp_path / "bundle", kernel)
    path = write_box(tmp_path / "a.nii.gz", codes)
    assert measure_disagreement(segmenter, path, "flips") == pytest.approx(2 / WIDTH)


def test_a_network_without_left_and_right_agrees_with_itself_on_any_volume(tmp_path, volume):
    kernel = np.array([[0.1, 0.3, 0.2], [0.2, 0.5, -0.4], [0.1, 0.3, 0.2]])
    segmenter = convolution(tmp_path / "bundle", kernel)
    assert segmenter.segment(volume).mask.any() and measure_disagreement(segmenter, volume, "flips") < 1e-3


@pytest.mark.parametrize("signal", ["flips", "seeds"])
def test_a_real_network_has_one_disagreement(noisy, volume, signal):
    """In [0, 1], the same again and whatever the batch, and the segmenter is as it was."""
    before = noisy.segment(volume).score
    value = measure_disagreement(noisy, volume, signal)
    assert 0.01 < value < 0.99 and measure_disagreement(noisy, volume, signal) == value
    np.testing.assert_array_equal(noisy.segment(volume).score, before)
    try:
        for batch_size in (1, 64):
            noisy.configure(batch_size=batch_size)
            assert measure_disagreement(noisy, volume, signal) == pytest.approx(value, abs=1e-3)
    finally:
        noisy.configure()


def test_flips_compare_the_mask_that_is_written(deterministic, volume):
    item = deterministic.prepare(volume)
    masks = [deterministic.finish(item, score).mask for score in flip_scores(deterministic, item["image"])]
    np.testing.assert_array_equal(masks[0], deterministic.segment(volume).mask)
    assert measure_disagreement(deterministic, volume, "flips") == mask_disagreement(masks) > 0


def test_seeds_are_those_of_the_per_slice_noise(noisy, volume):
    image = noisy.prepare(volume)["image"]
    scores = list(seed_scores(noisy, image, num_seeds=3))
    assert len(scores) == 3 and not any(torch.equal(scores[0], other) for other in scores[1:])
    repeated = image.as_tensor()[:, :, :1].expand(-1, -1, 2, -1)
    first, second = next(seed_scores(noisy, repeated)).unbind(2)
    assert not torch.allclose(first, second, atol=1e-3)


def test_seeds_of_a_network_without_start_noise_are_refused(deterministic, tmp_path, volume):
    for segmenter in (deterministic, convolution(tmp_path / "bundle", np.ones((3, 3)))):
        with pytest.raises(InputError, match="without start noise"):
            measure_disagreement(segmenter, volume, "seeds")
    with pytest.raises(ValueError, match="unknown"):
        check_signal(deterministic, "noise")


def test_a_bad_file_is_an_input_error(deterministic, tmp_path):
    (tmp_path / "a.nii.gz").write_bytes(b"no volume")
    with pytest.raises(InputError, match=r"a\.nii\.gz"):
        measure_disagreement(deterministic, tmp_path / "a.nii.gz", "flips")


# in the label environment


@pytest.fixture(scope="module")
def scored(hippocampus, tmp_path_factory):
    """What scoring and serving three real volumes and a broken one came to; see ``label_scoring.py``."""
    if not (BIN / "python").is_file():
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
            *(BIN / "python", ROOT / "tests" / "label_scoring.py"),
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
