"""Networks on diffusers' classes; every size is a constructor argument."""

from sdseg_monai.networks.autoencoder import AutoencoderOutput, MaskAutoencoder
from sdseg_monai.networks.cross_attention import CrossAttentionUNet
from sdseg_monai.networks.distillation import DecoderDistillation, DistillationOutput
from sdseg_monai.networks.lite import EfficientNetLite, LiteVisionEncoder
from sdseg_monai.networks.pixel import PixelSegmenter
from sdseg_monai.networks.sdseg import SDSeg, SDSegOutput
from sdseg_monai.networks.tiny import TinyMaskAutoencoder, TinyVisionEncoder
from sdseg_monai.networks.unet import DenoisingUNet
from sdseg_monai.networks.vision_encoder import VisionEncoder

__all__ = [
    "AutoencoderOutput",
    "CrossAttentionUNet",
    "DecoderDistillation",
    "DenoisingUNet",
    "DistillationOutput",
    "EfficientNetLite",
    "LiteVisionEncoder",
    "MaskAutoencoder",
    "PixelSegmenter",
    "SDSeg",
    "SDSegOutput",
    "TinyMaskAutoencoder",
    "TinyVisionEncoder",
    "VisionEncoder",
]
