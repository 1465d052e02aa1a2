"""``tta="mirror"``: the mean score of an image and its mirror image, where the training mirrored images."""

import json

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from sdseg_monai import Pipeline, cli, segment
from sdseg_monai.bundle import Bundle, shipped_bundles
from sdseg_monai.errors import ArgumentError
from sdseg_monai.io.bundles.mirrors import read_mirrored_axes
from tests.makers.bundles import write_picture_bundle, write_sdseg, write_training
from tests.makers.volumes import load_nifti, write_case


def flip_steps(*axes, prob=0.5):
    """Return an augmentation that mirrors along axes of a slice."""
    steps = [{"_target_": "RandFlipd", "keys": ["image", "label"], "prob": prob, "spatial_axis": axis} for axis in axes]
    return {"_target_": "Compose", "transforms": steps}


@pytest.fixture(scope="module")
def volume(tmp_path_factory):
    folder = tmp_path_factory.mktemp("volume")
    write_case(folder, "a", shape=(20, 9, 18))
    return folder / "images" / "a.nii.gz"


@pytest.fixture
def bundle(tmp_path):
    """A bundle of two classes, trained on coronal slices and their mirror images from left to right."""
    return write_training(write_sdseg(tmp_path / "tiny", "zeros"))


def rename_class(bundle, name):
    file = bundle / "configs" / "metadata.json"
    metadata = json.loads(file.read_text())
    metadata["network_data_format"]["post_processed_outputs"]["pred"]["channel_def"] = {"0": "background", "1": name}
    file.write_text(json.dumps(metadata))


@pytest.fixture
def one_class(bundle):
    rename_class(bundle, "hippocampus")
    return bundle


@pytest.mark.parametrize(("axes", "axis"), [([0], 0), ([1], 2), ([1, 0], 0)])
@pytest.mark.parametrize("num_classes", [2, 3])
def test_the_score_is_the_mean_of_the_images_and_the_mirror_images(tmp_path, volume, num_classes, axes, axis):
    """The mirror image is a file of its own here; coronal slices have the axes left-right and up-down."""
    bundle = write_training(write_sdseg(tmp_path / "tiny", "zeros", num_classes), augmentation=flip_steps(*axes))
    if num_classes == 2:
        rename_class(bundle, "hippocampus")
    image = load_nifti(volume)
    nib.save(nib.Nifti1Image(np.flip(image.get_fdata(dtype=np.float32), axis), image.affine), tmp_path / "m.nii.gz")
    once, mirrored = (segment(path, bundle=bundle, device="cpu") for path in (volume, tmp_path / "m.nii.gz"))
    result = segment(volume, bundle=bundle, device="cpu", tta="mirror")
    expected = (once.scores + np.flip(mirrored.scores, axis + 1)) / 2
    np.testing.assert_allclose(result.scores, expected, atol=1e-6)
    assert np.abs(result.scores - once.scores).max() > 1e-3, "the network is not symmetric"
    assert sorted(result.maps) == sorted(once.maps) and result.summary == {}, "no measure of uncertainty"


def test_a_picture_is_mirrored_along_the_axis_of_the_training(tmp_path):
    """The first axis in the slice of a picture are its rows, in training and here."""
    bundle = write_training(write_picture_bundle(tmp_path / "polyps"), slice_axis=2)
    array = np.random.default_rng(0).integers(0, 255, (40, 56, 3), dtype=np.uint8)
    for name, pixels in (("a.png", array), ("upside_down.png", array[::-1])):
        Image.fromarray(pixels).save(tmp_path / name)
    once, mirrored = (
        segment(tmp_path / name, bundle=bundle, device="cpu").scores for name in ("a.png", "upside_down.png")
    )
    result = segment(tmp_path / "a.png", bundle=bundle, device="cpu", tta="mirror")
    np.testing.assert_allclose(result.scores, (once + np.flip(mirrored, 1)) / 2, atol=1e-5)
    assert np.abs(result.scores - once).max() > 1e-3


def test_the_embedded_bundle_knows_mirror_images(volume):
    pipeline = Pipeline("hippocampus_sdseg", device="cpu", tta="mirror")
    assert pipeline.settings["tta"] == "mirror" and pipeline.strategy.axis == 0
    assert "entropy" not in pipeline.map_names


def test_shipped_trainings_say_what_they_mirror():
    axes = {name: Bundle.open(name).mirrored_axes for name in shipped_bundles()}
    assert axes["hippocampus_sdseg"] == [0] and axes["sdseg"] == [0, 1]


@pytest.mark.parametrize(
    ("config", "axes"),
    [
        ({"augmentation": flip_steps(1, 0)}, [0, 1]),
        ({"augmentation": flip_steps(1, prob="@p"), "p": 0.1}, [1]),
        ({"augmentation": flip_steps(1, prob="@p"), "p": 0}, []),
        ({"augmentation": flip_steps(1, prob="@p")}, []),
        ({"augmentation": flip_steps(1, prob="$1 / 2")}, []),
        ({"augmentation": flip_steps([0, 1])}, []),
        ({"augmentation": flip_steps(None)}, []),
        ({"augmentation": {"transforms": [{"_target_": "RandAffined", "prob": 1, "spatial_axis": 0}]}}, []),
        ({"augmentation": "@other"}, []),
        ({"augmentation": {"transforms": "@other"}}, []),
        ({}, []),
    ],
)
def test_mirror_images_are_read_without_running_the_config(config, axes):
    assert read_mirrored_axes(config) == axes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda bundle: write_training(bundle, mirror_probability=0), "mirrors no images"),
        (lambda bundle: write_training(bundle, augmentation=flip_steps(0, prob="$1 / 2")), "mirrors no images"),
        (lambda bundle: (bundle / "configs" / "train.json").unlink(), "train.json is missing"),
        (lambda bundle: (bundle / "configs" / "train.json").write_text("{"), "train.json: cannot be used"),
        (lambda bundle: rename_class(bundle, "Left kidney"), "Left kidney names a side"),
        (lambda bundle: (bundle / "configs" / "metadata.json").unlink(), "does not name the classes"),
    ],
)
def test_where_a_mirror_image_may_be_wrong_it_is_refused(one_class, change, message):
    assert Pipeline(one_class, device="cpu", tta="mirror").strategy.num_samples == 1
    change(one_class)
    with pytest.raises(ValueError, match=message):
        Pipeline(one_class, device="cpu", tta="mirror")
    Pipeline(one_class, device="cpu")


@pytest.mark.parametrize("uncertainty", ["flips", "seeds", "ensemble"])
def test_two_ways_to_segment_several_times_contradict_each_other(uncertainty):
    with pytest.raises(ArgumentError, match=f"tta='mirror' and uncertainty='{uncertainty}': expected one"):
        Pipeline(tta="mirror", uncertainty=uncertainty)
    with pytest.raises(ArgumentError, match="tta='flips': expected mirror"):
        Pipeline(tta="flips")


def run(*arguments):
    return cli.main(["segment", *map(str, arguments), "--device", "cpu"])


def test_the_command_writes_the_mean_and_says_so(one_class, volume, tmp_path, capsys):
    options = [volume, "-o", tmp_path / "mask.nii.gz", "--bundle", one_class, "--report", tmp_path / "page.html"]
    assert run(*options, "--tta", "mirror") == 0
    expected = segment(volume, bundle=one_class, device="cpu", tta="mirror")
    np.testing.assert_array_equal(load_nifti(tmp_path / "mask.nii.gz").get_fdata(), expected.labels)
    assert json.loads((tmp_path / "mask.json").read_text())["settings"]["tta"] == "mirror"
    assert "<dt>tta</dt>" in (tmp_path / "page.html").read_text()
    capsys.readouterr()
    assert run(*options, "--tta", "mirror", "--uncertainty", "flips") == 2
    assert "--tta mirror and --uncertainty flips: expected one" in capsys.readouterr().err


def test_a_run_goes_on_only_with_the_same_setting(one_class, volume, tmp_path, capsys):
    options = [volume.parent, "-o", tmp_path / "masks", "--bundle", one_class]
    assert run(*options, "--tta", "mirror") == 0
    capsys.readouterr()
    assert run(*options, "--tta", "mirror", "--resume") == 0
    assert json.loads(capsys.readouterr().out)["skipped"] == 1
    assert run(*options, "--resume") == 2
    assert "is of a run with tta 'mirror', now it is None" in capsys.readouterr().err
