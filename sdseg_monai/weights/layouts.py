"""Which kind of checkpoint a file looks like, told by the names of its tensors."""

from __future__ import annotations

from collections.abc import Iterable

LAYOUTS = (  # the first whose parts all occur in some name
    (("model.diffusion_model.", "cond_stage_model.encoder.", "first_stage_model."), "an official SDSeg checkpoint"),
    (("model.diffusion_model.", ".transformer_blocks."), "a CompVis Stable Diffusion checkpoint"),
    (("model.diffusion_model.",), "a CompVis latent diffusion checkpoint"),
    (("autoencoder.", "vision_encoder.", "unet.", "scale_factor"), "a model.pt of this package"),
    (("vision_encoder.", "unet."), "a training checkpoint of this package"),
    (("down_blocks.", "transformer_blocks."), "a diffusers UNet2DConditionModel"),
    (("time_embedding.", "down_blocks."), "a diffusers UNet2DModel"),
    (("encoder.down_blocks.", "decoder.up_blocks."), "an autoencoder of diffusers or this package"),
    (("encoder.down_blocks.", "decoder.layers."), "an autoencoder of this package with a distilled decoder"),
    (("encoder.layers.", "decoder.layers."), "a TAESD (AutoencoderTiny)"),
    (("encoder.down.", "decoder.up."), "a CompVis autoencoder (kl-f8, Stable Diffusion's VAE)"),
)


def describe_layout(names: Iterable[str]) -> str:
    """Return a few words that say which layout ``names`` look like."""
    names = list(names)
    for parts, description in LAYOUTS:
        if all(any(part in name for name in names) for part in parts):
            return description
    return "no layout known here"
