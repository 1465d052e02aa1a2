"""A device that cannot be used is refused in one line, whatever torch says of it."""

import pytest
import torch

from sdseg_monai.errors import InputError
from sdseg_monai.networks.device import checked_device

without_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA here")
UNUSABLE = ["cuda:99", "cuda:256", "cuda:-1", "cuda:", "cpu:1", "cpu:256", "meta", "nonsense", "", "CPU", " cpu", 0.5]


@pytest.mark.parametrize("name", [*UNUSABLE, pytest.param("cuda", marks=without_cuda), torch.device("cuda", 99)])
def test_an_unusable_device_is_refused(name):
    with pytest.raises(InputError, match=r"device '.*' cannot be used \(.+\), expected cpu, or cuda") as caught:
        checked_device(name)
    assert str(name) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["cpu", "cpu:0", torch.device("cpu")])
def test_a_usable_device_is_returned(name):
    assert checked_device(name) == torch.device(name)
