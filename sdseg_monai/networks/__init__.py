"""Networks on diffusers' classes; every size is a constructor argument."""

from sdseg_monai.networks.autoencoder import AutoencoderOutput, MaskAutoencoder
from sdseg_monai.networks.sdseg import SDSeg, SDSegOutput
from sdseg_monai.networks.unet import DenoisingUNet
from sdseg_monai.networks.vision_encoder import VisionEncoder

__all__ = ["AutoencoderOutput", "DenoisingUNet", "MaskAutoencoder", "SDSeg", "SDSegOutput", "VisionEncoder"]
