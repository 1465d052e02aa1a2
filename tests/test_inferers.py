import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor, list_data_collate
from monai.transforms import Compose, Invertd, Orientationd, ScaleIntensityd
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

from sdseg_monai.data import SliceDataset
from sdseg_monai.errors import InputError
from sdseg_monai.inferers import SliceWiseInferer
from sdseg_monai.networks import PixelSegmenter
from sdseg_monai.transforms import LoadVolumed
from tests.makers.networks import make_network
from tests.makers.volumes import load_nifti, write_case

VOLUME = torch.randn(1, 1, 18, 14, 7, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)


@pytest.mark.parametrize("noise", ["network", "per_slice"])
@pytest.mark.parametrize("slice_axis", [0, 1, 2])
def test_batch_size_does_not_change_the_score(network, slice_axis, noise):
    with torch.no_grad():
        reference = SliceWiseInferer((16, 24), slice_axis, 1, noise)(VOLUME, network)
        assert reference.shape == VOLUME.shape and reference.dtype == torch.float32
        for batch_size in (3, 100):
            score = SliceWiseInferer((16, 24), slice_axis, batch_size, noise)(VOLUME, network)
            torch.testing.assert_close(score, reference, atol=1e-5, rtol=0)
            differ = (score >= 0.5) != (reference >= 0.5)
            assert ((reference[differ] - 0.5).abs() <= 1e-5).all()


def test_slice_order_does_not_change_the_score(network):
    inferer = SliceWiseInferer((16, 16), 2, 4)
    with torch.no_grad():
        forward, reverse = inferer(VOLUME, network), inferer(VOLUME.flip(4), network)
    torch.testing.assert_close(reverse.flip(4), forward, atol=1e-5, rtol=0)


def test_slabs_join_to_the_score_and_only_one_is_held(network):
    inferer = SliceWiseInferer((16, 16), 1, 4)
    with torch.no_grad():
        slabs = list(inferer.iter_scores(VOLUME[0], network))
        assert [slab.shape for slab in slabs] == [(1, 18, n, 7) for n in (4, 4, 4, 2)]
        assert torch.equal(torch.cat(slabs, 2), inferer(VOLUME, network)[0])


def test_per_slice_noise_is_keyed_by_seed_case_and_slice(network):
    def score(name="a", seed=0, volume=VOLUME):
        image = MetaTensor(volume, meta={"filename_or_obj": [f"/somewhere/{name}.nii.gz"]})
        with torch.no_grad():
            return SliceWiseInferer((16, 16), 2, 4, "per_slice", seed)(image, network).as_subclass(torch.Tensor)

    assert torch.equal(score(), score())
    assert not torch.allclose(score(), score(name="b"), atol=1e-3)
    assert not torch.allclose(score(), score(seed=1), atol=1e-3)
    same = VOLUME[..., :1].expand(-1, -1, -1, -1, 7)
    different = score(volume=same)
    assert not torch.allclose(different[..., 0], different[..., 1], atol=1e-3)


def test_shared_noise_is_the_same_for_every_slice(network):
    same = VOLUME[..., :1].expand(-1, -1, -1, -1, 7)
    with torch.no_grad():
        score = SliceWiseInferer((16, 16), 2, 3)(same, network)
    torch.testing.assert_close(score, score[..., :1].expand_as(score), atol=1e-5, rtol=0)


@pytest.mark.parametrize("num_samples", [1, 3])
def test_per_slice_noise_for_a_network_without_start_noise_is_refused(num_samples):
    zeros = make_network(prediction_type="sample", start_noise="zeros").eval()
    for network in (zeros, PixelSegmenter(torch.nn.Conv2d(3, 1, 1))):
        with pytest.raises(InputError, match="without start noise, which gives one mask whatever the seed"):
            SliceWiseInferer((16, 16), noise="per_slice", num_samples=num_samples)(VOLUME, network)


def test_metadata_is_kept_and_several_volumes_and_channels_work(network):
    affine = torch.from_numpy(np.diag([1.0, 2, 3, 1]))
    volumes = MetaTensor(VOLUME.expand(2, 3, -1, -1, -1), affine=affine)
    with torch.no_grad():
        score = SliceWiseInferer((16, 16), 2, 4)(volumes, network)
    assert isinstance(score, MetaTensor) and torch.equal(score.affine, affine)
    assert score.shape == (2, 1, 18, 14, 7)


def with_spacing(volume, spacing):
    return MetaTensor(volume, affine=torch.diag(torch.tensor([1.0, 1.0, spacing, 1.0])))


@pytest.mark.parametrize("noise", ["network", "per_slice"])
@pytest.mark.parametrize("spacing", [0.3, 1.0, 2.0])
def test_batch_size_does_not_change_the_score_with_context(network, spacing, noise):
    volume = with_spacing(VOLUME, spacing)

    def score(batch_size, context_mm=1.0):
        with torch.no_grad():
            score = SliceWiseInferer((16, 24), 2, batch_size, noise, context_mm=context_mm)(volume, network)
        return score.as_subclass(torch.Tensor)

    for batch_size in (3, 100):
        torch.testing.assert_close(score(batch_size), score(1), atol=1e-5, rtol=0)
    assert not torch.allclose(score(1), score(1, context_mm=None), atol=1e-3)


def images_of(inferer, volume):
    """Return the images [N, 3, H, W] that ``inferer`` shows a network, in their order."""
    images = []

    def record(image):
        images.append(image)
        return image[:, :1]

    inferer(volume, record)
    return torch.cat(images)


@pytest.mark.parametrize("context_mm", [None, 0.7, 1.0, 4.0])
@pytest.mark.parametrize("slice_axis", [0, 2])
def test_inference_shows_the_images_of_the_training(tmp_path, slice_axis, context_mm):
    write_case(tmp_path, "a", shape=(9, 20, 7))
    item = {key: str(tmp_path / f"{key}s" / "a.nii.gz") for key in ("image", "label")}
    keys = ("image", "label")
    load = Compose([LoadVolumed(keys), Orientationd(keys, "RAS", labels=None), ScaleIntensityd("image", -1, 1)])
    dataset = SliceDataset([item], load, slice_axis, (16, 24), progress=False, context_mm=context_mm)
    expected = torch.stack([dataset[i]["image"] for i in range(len(dataset))])
    volume = load(item)["image"][None]
    for batch_size in (1, 3, 100):
        images = images_of(SliceWiseInferer((16, 24), slice_axis, batch_size, context_mm=context_mm), volume)
        torch.testing.assert_close(images, expected, atol=1e-6, rtol=0)


def test_volumes_of_a_batch_have_their_own_spacing():
    volumes = [with_spacing(VOLUME[0], spacing) for spacing in (1.0, 3.0)]
    batch = list_data_collate([{"image": volume} for volume in volumes])["image"]
    inferer = SliceWiseInferer((18, 14), 2, 4, context_mm=1.0)
    together = images_of(inferer, batch)
    assert torch.equal(together, torch.cat([images_of(inferer, volume[None]) for volume in volumes]))
    assert not torch.allclose(together[:7], together[7:], atol=1e-3)


@pytest.mark.parametrize("context_mm", [None, 1.0])
@pytest.mark.parametrize("codes", ["LAS", "RPI", "PIR", "SLA"])
def test_the_score_does_not_depend_on_how_a_volume_is_stored(tmp_path, codes, context_mm):
    network = make_network(num_classes=3).eval()
    inferer = SliceWiseInferer((16, 16), 1, 4, context_mm=context_mm)
    load = Compose([LoadVolumed("image"), Orientationd("image", "RAS", labels=None), ScaleIntensityd("image", -1, 1)])

    def score(path):
        item = load({"image": str(path)})
        with torch.no_grad():
            item["pred"] = inferer(item["image"][None], network)[0]
        back = Invertd("pred", load, orig_keys="image", nearest_interp=False)
        return np.moveaxis(back(item)["pred"].numpy(), 0, -1)

    write_case(tmp_path, "a", shape=(12, 9, 7))
    stored = load_nifti(tmp_path / "images" / "a.nii.gz")
    turn = ornt_transform(io_orientation(stored.affine), axcodes2ornt(codes))
    nib.save(stored.as_reoriented(turn), tmp_path / "turned.nii.gz")
    turned = nib.Nifti1Image(score(tmp_path / "turned.nii.gz"), load_nifti(tmp_path / "turned.nii.gz").affine)
    back = turned.as_reoriented(ornt_transform(axcodes2ornt(codes), io_orientation(stored.affine)))
    expected = score(tmp_path / "images" / "a.nii.gz")
    assert expected.shape == (12, 9, 7, 3)
    np.testing.assert_allclose(back.get_fdata(), expected, atol=1e-5)


def test_context_of_a_photograph_or_of_no_distance_is_refused(network):
    picture = MetaTensor(torch.zeros(3, 16, 16, 1), meta={"filename_or_obj": "/there/polyp.png"})
    photograph = list_data_collate([{"image": picture}])["image"]
    with pytest.raises(InputError, match=r"^/there/polyp\.png: has 3 channels, a photograph .*set context_mm to null"):
        SliceWiseInferer((16, 16), context_mm=1.0)(photograph, network)
    with pytest.raises(InputError, match="expected a distance in millimetres"):
        SliceWiseInferer((16, 16), context_mm=-1.0)(with_spacing(VOLUME, 1.0), network)
    with pytest.raises(ValueError, match="needs an image with an affine, got a Tensor"):
        SliceWiseInferer((16, 16), context_mm=1.0)(VOLUME, network)


def test_several_classes_have_scores_that_sum_to_one_on_the_volumes_grid():
    network = make_network(num_classes=3).eval()
    with torch.no_grad():
        score = SliceWiseInferer((16, 24), 2, 4)(VOLUME, network)
    assert score.shape == (1, 3, 18, 14, 7)
    torch.testing.assert_close(score.sum(1), torch.ones(1, 18, 14, 7))


def test_samples_are_averaged(network):
    def score(num_samples, seed=0):
        with torch.no_grad():
            return SliceWiseInferer((16, 16), 2, 4, "per_slice", seed, num_samples=num_samples)(VOLUME, network)

    single, mean = score(1), score(12)
    spread = (score(1, seed=1) - single).std()
    assert 0 < (score(12, seed=1) - mean).std() < 0.6 * spread


def test_samples_come_in_slabs_before_their_mean(network):
    inferer = SliceWiseInferer((16, 16), 1, 4, "per_slice", num_samples=3)
    single = SliceWiseInferer((16, 16), 1, 4, "per_slice")
    with torch.no_grad():
        slabs = list(inferer.iter_samples(VOLUME[0], network))
        assert [slab.shape for slab in slabs] == [(3, 1, 18, n, 7) for n in (4, 4, 4, 2)]
        samples = torch.cat(slabs, 3)
        torch.testing.assert_close(samples.mean(0), inferer(VOLUME, network)[0])
        torch.testing.assert_close(samples[0], single(VOLUME, network)[0])
    assert not any(torch.allclose(samples[0], sample, atol=1e-3) for sample in samples[1:])


@pytest.mark.parametrize(
    "options", [{"slice_axis": 3}, {"batch_size": 0}, {"noise": "random"}, {"num_samples": 0}, {"num_samples": 2}]
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(InputError, match=next(iter(options))):
        SliceWiseInferer((16, 16), **options)
