import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from sdseg_monai.inferers import SliceWiseInferer
from tests.conftest import make_network

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
        named = MetaTensor(volume, meta={"filename_or_obj": [f"/somewhere/{name}.nii.gz"]})
        with torch.no_grad():
            return SliceWiseInferer((16, 16), 2, 4, "per_slice", seed)(named, network).as_tensor()

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


def test_per_slice_noise_for_a_network_that_starts_from_zeros_is_refused():
    network = make_network(prediction_type="sample", start_noise="zeros").eval()
    with pytest.raises(ValueError, match="zeros"):
        SliceWiseInferer((16, 16), noise="per_slice")(VOLUME, network)


def test_metadata_is_kept_and_several_volumes_and_channels_work(network):
    affine = torch.from_numpy(np.diag([1.0, 2, 3, 1]))
    volumes = MetaTensor(VOLUME.expand(2, 3, -1, -1, -1), affine=affine)
    with torch.no_grad():
        score = SliceWiseInferer((16, 16), 2, 4)(volumes, network)
    assert isinstance(score, MetaTensor) and torch.equal(score.affine, affine)
    assert score.shape == (2, 1, 18, 14, 7)


def test_samples_are_averaged(network):
    def score(num_samples, seed=0):
        with torch.no_grad():
            return SliceWiseInferer((16, 16), 2, 4, "per_slice", seed, num_samples=num_samples)(VOLUME, network)

    one, many = score(1), score(12)
    spread = (score(1, seed=1) - one).std()
    assert 0 < (score(12, seed=1) - many).std() < 0.6 * spread


@pytest.mark.parametrize(
    "options", [{"slice_axis": 3}, {"batch_size": 0}, {"noise": "random"}, {"num_samples": 0}, {"num_samples": 2}]
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        SliceWiseInferer((16, 16), **options)
