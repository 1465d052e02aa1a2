"""EfficientNet-lite0, a small backbone that others trained on ImageNet, as vision encoder and as a U-Net's encoder."""

from __future__ import annotations

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from monai.networks.nets.efficientnet import EfficientNet, EfficientNetEncoder, MBConvBlock
from monai.networks.nets.flexible_unet import FLEXUNET_BACKBONE
from torch import nn
from torch.nn import functional as F

NAME = "efficientnet-lite0"
# EfficientNet-B0's, without squeeze and excitation: repeats, kernel, stride, expansion, channels in and out
BLOCKS = (
    *("r1_k3_s11_e1_i32_o16", "r2_k3_s22_e6_i16_o24", "r2_k5_s22_e6_i24_o40", "r3_k3_s22_e6_i40_o80"),
    *("r3_k5_s11_e6_i80_o112", "r4_k5_s22_e6_i112_o192", "r1_k3_s11_e6_i192_o320"),
)
NORM = ("batch", {"eps": 1e-3, "momentum": 0.01})
CHANNELS = (16, 24, 40, 112, 320)  # of the features at a half, a quarter and so on of the image's size
PATH_DROPPED = 0.2  # of the last block in training; of the others in proportion


class EfficientNetLite(EfficientNetEncoder):
    """EfficientNet-lite0 without its classifier: MONAI's EfficientNet with ReLU6, and without squeeze and excitation.

    It maps an image [B, 3, H, W] in [-1, 1] to a list of features, each [B, C, H / 2^i, W / 2^i], by their size.

    Args:
        spatial_dims: 2.
        in_channels: 3.
        pretrained: False; :func:`sdseg_monai.weights.load_backbone` loads weights.

    Source: the EfficientNet-lite models of tensorflow/tpu.

    Example:
        >>> [tuple(f.shape[1:]) for f in EfficientNetLite().eval()(torch.zeros(1, 3, 64, 64))]
        [(16, 32, 32), (24, 16, 16), (40, 8, 8), (112, 4, 4), (320, 2, 2)]
    """

    def __init__(self, spatial_dims: int = 2, in_channels: int = 3, pretrained: bool = False) -> None:
        if pretrained:
            raise ValueError("pretrained: expected False, load_backbone loads weights")
        # not that of EfficientNetEncoder, which looks its blocks up by a name
        EfficientNet.__init__(self, list(BLOCKS), spatial_dims, in_channels, norm=NORM, drop_connect_rate=PATH_DROPPED)
        del self._conv_head, self._conv_head_padding, self._bn1, self._avg_pooling, self._dropout, self._fc
        for module in self.modules():
            if isinstance(module, EfficientNet | MBConvBlock):
                module._swish = nn.ReLU6()

    @classmethod
    def get_encoder_parameters(cls) -> list[dict]:
        """Return the arguments that MONAI's FlexibleUNet gives to the constructor."""
        return [{"spatial_dims": 2, "in_channels": 3, "pretrained": False}]

    @classmethod
    def num_channels_per_output(cls) -> list[tuple[int, ...]]:
        """Return the channels of each output."""
        return [CHANNELS]

    @classmethod
    def num_outputs(cls) -> list[int]:
        """Return the number of outputs."""
        return [len(CHANNELS)]

    @classmethod
    def get_encoder_names(cls) -> list[str]:
        """Return the name by which MONAI's FlexibleUNet finds this backbone."""
        return [NAME]


FLEXUNET_BACKBONE.register_class(EfficientNetLite)


class LiteVisionEncoder(ModelMixin, ConfigMixin):
    """EfficientNet-lite0 as vision encoder: features of several sizes, each through a linear head, become one latent.

    Args:
        latent_channels: Z, channels of the latent.

    Attributes:
        downsampling: f = 8.

    Example:
        >>> LiteVisionEncoder(16).eval()(torch.zeros(1, 3, 64, 64)).shape
        torch.Size([1, 16, 8, 8])
    """

    diffusers_class = None  # diffusers has no such model

    @register_to_config
    def __init__(self, latent_channels: int = 32) -> None:
        super().__init__()
        self.backbone = EfficientNetLite()
        self.finer_head = nn.Conv2d(CHANNELS[1], latent_channels, 2, stride=2)
        self.heads = nn.ModuleList(nn.Conv2d(channels, latent_channels, 1) for channels in CHANNELS[2:])
        self.latent_channels = latent_channels
        self.downsampling = 8

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Encode ``image`` [B, 3, H, W] in [-1, 1] to its latent z_c [B, Z, h, w]."""
        _, finer, *others = self.backbone(image)
        latent = self.finer_head(finer)
        for head, features in zip(self.heads, others, strict=True):
            latent = latent + F.interpolate(head(features), latent.shape[-2:], mode="bilinear", align_corners=False)
        return latent
