"""A tiny network of the real classes."""

import torch

from sdseg_monai.networks import DenoisingUNet, MaskAutoencoder, SDSeg, VisionEncoder


def make_network(**options) -> SDSeg:
    """Return a network with random weights and a known latent scale; 16 x 16 is its smallest image."""
    torch.manual_seed(0)
    network = SDSeg(
        MaskAutoencoder([8, 16, 16], 1, 4, 4, num_classes=options.get("num_classes", 2)),
        VisionEncoder([8, 16, 16], 1, 4, 4),
        DenoisingUNet(8, 4, [16, 32], [False, True], 1, 4, 8),
        **options,
    )
    network.scale_factor.fill_(0.5)
    return network
