"""What the images of a training look like, and images that look otherwise."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from monai.data import Dataset
from PIL import Image

from sdseg_monai import segment
from sdseg_monai.bundle import Bundle
from sdseg_monai.errors import ArgumentError, InputError
from sdseg_monai.handlers import DescribeImages
from sdseg_monai.inferers import SliceWiseInferer
from sdseg_monai.io.warnings import NOT_TRUSTED
from sdseg_monai.networks.known_images import describe_images, image_distance, usual_distance
from sdseg_monai.weights import load_weights, read_tensors, save_inference, save_network, save_tensors
from tests.makers.bundles import write_picture_bundle
from tests.makers.networks import make_network

INFERER = SliceWiseInferer(size=(32, 32), slice_axis=2)
ENGINE = SimpleNamespace(state=SimpleNamespace(rank=0))


def pictures(number, seed, brightness):
    """Return items whose images are smooth noise around a brightness in [-1, 1]."""
    rng = torch.Generator().manual_seed(seed)
    noise = torch.nn.functional.interpolate(torch.randn(number, 3, 4, 4, generator=rng), size=(32, 32))
    return [{"image": image} for image in (brightness + 0.1 * noise).clamp(-1, 1)]


def describe(path, network, number=64):
    """Write into the weights' file what bright pictures look like."""
    validation = Dataset([{"image": item["image"][..., None]} for item in pictures(32, 2, 0.5)])
    DescribeImages(path, network, Dataset(pictures(number, 0, 0.5)), validation, INFERER, batch_size=16)(ENGINE)


def test_the_distance_is_that_of_mahalanobis_and_one_is_what_nearly_all_of_the_training_have():
    features = torch.randn(500, 3, generator=torch.Generator().manual_seed(0)).double() * torch.tensor([1.0, 10, 0.1])
    known = describe_images(features)
    expected = ((features - features.mean(0)) / features.std(0)).norm(dim=1)
    torch.testing.assert_close(image_distance(features, known), expected, rtol=0.1, atol=0.3)
    usual = usual_distance(image_distance(features, known))
    assert (image_distance(features, known) <= usual).double().mean() == pytest.approx(0.98, abs=0.003)
    far = image_distance(torch.tensor([[0.0, 0, 5], [0, 5, 0]]).double(), known)
    assert far[0] > usual > far[1]  # by the spread of each feature


def test_a_training_describes_its_images_and_the_weights_keep_it(tmp_path):
    path, network = tmp_path / "model.pt", make_network()
    save_network(network, path)
    describe(path, network)
    load_weights(other := make_network(), path)
    similar, unlike = (
        other.image_distance(torch.stack([item["image"] for item in pictures(8, 1, brightness)]))
        for brightness in (0.5, -0.5)
    )
    assert similar.median() < 1 < unlike.median()
    save_inference(other, tmp_path / "half.pt")
    load_weights(half := make_network(), tmp_path / "half.pt")
    image = torch.stack([item["image"] for item in pictures(8, 1, 0.5)])
    torch.testing.assert_close(half.image_distance(image), similar, rtol=0.02, atol=0.02)
    assert make_network().image_distance(image) is None


def test_a_few_cases_describe_nothing_and_what_is_known_of_others_is_not_kept(tmp_path):
    path, network = tmp_path / "model.pt", make_network()
    save_network(network, path)
    describe(path, network)
    load_weights(start := make_network(), path)
    save_network(start, path)  # as a training does that starts from these weights
    assert "images" in read_tensors(path)["trained_for"]
    describe(path, start, 15)
    assert "images" not in read_tensors(path)["trained_for"]
    load_weights(other := make_network(), path)
    assert other.image_distance(torch.zeros(1, 3, 32, 32)) is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda known: known.pop("mean"),
        lambda known: known.update(usual="far"),
        lambda known: known.update(usual=float("nan")),
        lambda known: known.update(mean=known["mean"][:2]),
        lambda known: known.update(precision=known["precision"] * float("nan")),
    ],
)
def test_a_damaged_record_is_refused(tmp_path, damage):
    path, network = tmp_path / "model.pt", make_network()
    save_network(network, path)
    describe(path, network, 16)
    state = read_tensors(path)
    damage(state["trained_for"]["images"])
    save_tensors(path, state)
    with pytest.raises(InputError, match=r"model\.pt: its record of the training's images is damaged"):
        load_weights(make_network(), path)


@pytest.fixture
def bundle(tmp_path):
    """A bundle for pictures that knows what bright ones look like."""
    root = write_picture_bundle(tmp_path / "bright")
    config = json.loads((root / "configs" / "inference.json").read_text())
    check = {"_target_": "sdseg_monai.transforms.WarnUnlikeTrainingd", "keys": "image"}
    config["preprocessing"]["transforms"].append(check | {"network": "@network_def", "inferer": "@inferer"})
    (root / "configs" / "inference.json").write_text(json.dumps(config))
    return root


def write_picture(path, seed, brightness):
    (item,) = pictures(1, seed, brightness)
    Image.fromarray(((item["image"].movedim(0, -1) + 1) * 127.5).round().numpy().astype(np.uint8)).save(path)
    return path


def test_a_picture_of_another_kind_is_refused_or_marked(bundle, tmp_path):
    network = Bundle(bundle).config("inference").get_parsed_content("network_def")
    load_weights(network, bundle / "models" / "model.pt")
    describe(bundle / "models" / "model.pt", network)
    result = segment(write_picture(tmp_path / "a.png", 1, 0.5), bundle=bundle, device="cpu", trust=True)
    assert result.trusted and not [w for w in result.warnings if w.kind == "unlike"]
    dark = write_picture(tmp_path / "b.png", 1, -0.5)
    with pytest.raises(ArgumentError, match=r"b\.png: it looks unlike the images of the training: .* times as far"):
        segment(dark, bundle=bundle, device="cpu")
    forced = segment(dark, bundle=bundle, device="cpu", force=True)
    assert forced.not_trusted.startswith(f"{NOT_TRUSTED}: it looks unlike")


def test_weights_that_know_nothing_of_images_segment_any(bundle, tmp_path):
    result = segment(write_picture(tmp_path / "a.png", 1, -0.5), bundle=bundle, device="cpu", trust=True)
    assert result.trusted
