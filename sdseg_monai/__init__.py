"""SDSeg on MONAI: single-step latent diffusion segmentation of medical images."""

__version__ = "0.3.0"
