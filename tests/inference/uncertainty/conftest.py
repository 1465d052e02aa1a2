"""Fixtures: bundles whose networks start from noise and from zeros."""

import pytest

from sdseg_monai.inference.segmenter import Segmenter
from tests.makers.bundles import write_other_weights, write_sdseg
from tests.makers.volumes import write_case


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
def other_weights(bundle, tmp_path_factory):
    return write_other_weights(tmp_path_factory.mktemp("weights") / "other.pt", bundle)


@pytest.fixture(scope="module")
def volume(tmp_path_factory):
    folder = tmp_path_factory.mktemp("volume")
    write_case(folder, "a", shape=(20, 9, 18))
    return folder / "images" / "a.nii.gz"
