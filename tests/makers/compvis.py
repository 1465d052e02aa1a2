"""Names and shapes of CompVis checkpoints, written down from their code, not from this package's maps."""

import torch


def conv(name, out, into, kernel):
    yield f"{name}.weight", (out, into, *kernel)
    yield f"{name}.bias", (out,)


def norm(name, channels):
    yield f"{name}.weight", (channels,)
    yield f"{name}.bias", (channels,)


def unet_resnet(name, into, out, embedding):
    yield from norm(f"{name}.in_layers.0", into)
    yield from conv(f"{name}.in_layers.2", out, into, (3, 3))
    yield from conv(f"{name}.emb_layers.1", 2 * out, embedding, ())
    yield from norm(f"{name}.out_layers.0", out)
    yield from conv(f"{name}.out_layers.3", out, out, (3, 3))
    if into != out:
        yield from conv(f"{name}.skip_connection", out, into, (1, 1))


def unet_attention(name, channels):
    yield from norm(f"{name}.norm", channels)
    yield from conv(f"{name}.qkv", 3 * channels, channels, (1,))
    yield from conv(f"{name}.proj_out", channels, channels, (1,))


def unet(channels=192, mult=(1, 2, 2, 4, 4), layers=2, attend=(True,) * 4 + (False,), into=8, out=4, classes=None):
    """guided-diffusion's UNetModel with resblock_updown, as configs of LDM-8 set it."""
    embedding = 4 * channels
    yield from conv("time_embed.0", embedding, channels, ())
    yield from conv("time_embed.2", embedding, embedding, ())
    if classes:
        yield "label_emb.weight", (classes, embedding)
    yield from conv("input_blocks.0.0", channels, into, (3, 3))
    current, skips, block = channels, [channels], 1
    for level, factor in enumerate(mult):
        for _ in range(layers):
            yield from unet_resnet(f"input_blocks.{block}.0", current, factor * channels, embedding)
            current = factor * channels
            if attend[level]:
                yield from unet_attention(f"input_blocks.{block}.1", current)
            skips.append(current)
            block += 1
        if level != len(mult) - 1:
            yield from unet_resnet(f"input_blocks.{block}.0", current, current, embedding)
            skips.append(current)
            block += 1
    yield from unet_resnet("middle_block.0", current, current, embedding)
    yield from unet_attention("middle_block.1", current)
    yield from unet_resnet("middle_block.2", current, current, embedding)
    block = 0
    for level in reversed(range(len(mult))):
        for layer in range(layers + 1):
            yield from unet_resnet(f"output_blocks.{block}.0", current + skips.pop(), mult[level] * channels, embedding)
            current = mult[level] * channels
            position = 1
            if attend[level]:
                yield from unet_attention(f"output_blocks.{block}.1", current)
                position = 2
            if level and layer == layers:
                yield from unet_resnet(f"output_blocks.{block}.{position}", current, current, embedding)
            block += 1
    yield from norm("out.0", current)
    yield from conv("out.2", out, channels, (3, 3))


def plain_resnet(name, into, out, embedding):
    """A residual block without scale-shift norm."""
    for tensor, shape in unet_resnet(name, into, out, embedding):
        yield tensor, (out, *shape[1:]) if ".emb_layers." in tensor else shape


def transformer(name, channels, context):
    yield from norm(f"{name}.norm", channels)
    yield from conv(f"{name}.proj_in", channels, channels, (1, 1))
    block = f"{name}.transformer_blocks.0"
    for attention, width in (("attn1", channels), ("attn2", context)):
        yield f"{block}.{attention}.to_q.weight", (channels, channels)
        yield f"{block}.{attention}.to_k.weight", (channels, width)
        yield f"{block}.{attention}.to_v.weight", (channels, width)
        yield from conv(f"{block}.{attention}.to_out.0", channels, channels, ())
    yield from conv(f"{block}.ff.net.0.proj", 8 * channels, channels, ())
    yield from conv(f"{block}.ff.net.2", channels, 4 * channels, ())
    for index in (1, 2, 3):
        yield from norm(f"{block}.norm{index}", channels)
    yield from conv(f"{name}.proj_out", channels, channels, (1, 1))


def sd_unet(channels=320, mult=(1, 2, 4, 4), layers=2, context=768):
    """Stable Diffusion 1.x: cross-attention on all levels but the last, plain resampling convolutions."""
    embedding, last = 4 * channels, len(mult) - 1
    yield from conv("time_embed.0", embedding, channels, ())
    yield from conv("time_embed.2", embedding, embedding, ())
    yield from conv("input_blocks.0.0", channels, 4, (3, 3))
    current, skips, block = channels, [channels], 1
    for level, factor in enumerate(mult):
        for _ in range(layers):
            yield from plain_resnet(f"input_blocks.{block}.0", current, factor * channels, embedding)
            current = factor * channels
            if level != last:
                yield from transformer(f"input_blocks.{block}.1", current, context)
            skips.append(current)
            block += 1
        if level != last:
            yield from conv(f"input_blocks.{block}.0.op", current, current, (3, 3))
            skips.append(current)
            block += 1
    yield from plain_resnet("middle_block.0", current, current, embedding)
    yield from transformer("middle_block.1", current, context)
    yield from plain_resnet("middle_block.2", current, current, embedding)
    block = 0
    for level in reversed(range(len(mult))):
        for layer in range(layers + 1):
            out = mult[level] * channels
            yield from plain_resnet(f"output_blocks.{block}.0", current + skips.pop(), out, embedding)
            current = out
            if level != last:
                yield from transformer(f"output_blocks.{block}.1", current, context)
            if level and layer == layers:
                yield from conv(f"output_blocks.{block}.{1 if level == last else 2}.conv", current, current, (3, 3))
            block += 1
    yield from norm("out.0", current)
    yield from conv("out.2", 4, channels, (3, 3))


def vae_resnet(name, into, out):
    yield from norm(f"{name}.norm1", into)
    yield from conv(f"{name}.conv1", out, into, (3, 3))
    yield from norm(f"{name}.norm2", out)
    yield from conv(f"{name}.conv2", out, out, (3, 3))
    if into != out:
        yield from conv(f"{name}.nin_shortcut", out, into, (1, 1))


def vae_middle(name, channels):
    yield from vae_resnet(f"{name}.block_1", channels, channels)
    yield from norm(f"{name}.attn_1.norm", channels)
    for part in ("q", "k", "v", "proj_out"):
        yield from conv(f"{name}.attn_1.{part}", channels, channels, (1, 1))
    yield from vae_resnet(f"{name}.block_2", channels, channels)


def encoder(channels=128, mult=(1, 2, 4, 4), layers=2, latent=4):
    yield from conv("encoder.conv_in", channels, 3, (3, 3))
    current = channels
    for level, factor in enumerate(mult):
        for layer in range(layers):
            yield from vae_resnet(f"encoder.down.{level}.block.{layer}", current, factor * channels)
            current = factor * channels
        if level != len(mult) - 1:
            yield from conv(f"encoder.down.{level}.downsample.conv", current, current, (3, 3))
    yield from vae_middle("encoder.mid", current)
    yield from norm("encoder.norm_out", current)
    yield from conv("encoder.conv_out", 2 * latent, current, (3, 3))


def decoder(channels=128, mult=(1, 2, 4, 4), layers=2, latent=4):
    current = channels * mult[-1]
    yield from conv("decoder.conv_in", current, latent, (3, 3))
    yield from vae_middle("decoder.mid", current)
    for level in reversed(range(len(mult))):
        for layer in range(layers + 1):
            yield from vae_resnet(f"decoder.up.{level}.block.{layer}", current, mult[level] * channels)
            current = mult[level] * channels
        if level:
            yield from conv(f"decoder.up.{level}.upsample.conv", current, current, (3, 3))
    yield from norm("decoder.norm_out", current)
    yield from conv("decoder.conv_out", 3, current, (3, 3))


def autoencoder(latent=4, **sizes):
    yield from encoder(latent=latent, **sizes)
    yield from decoder(latent=latent, **sizes)
    yield from conv("quant_conv", 2 * latent, 2 * latent, (1, 1))
    yield from conv("post_quant_conv", latent, latent, (1, 1))


SCHEDULE = (
    "betas", "alphas_cumprod", "alphas_cumprod_prev", "sqrt_alphas_cumprod", "sqrt_one_minus_alphas_cumprod",
    "log_one_minus_alphas_cumprod", "sqrt_recip_alphas_cumprod", "sqrt_recipm1_alphas_cumprod",
    "posterior_variance", "posterior_log_variance_clipped", "posterior_mean_coef1", "posterior_mean_coef2", "logvar",
)  # fmt: skip


def official(unet_sizes=None, autoencoder_sizes=None, timesteps=1000):
    """An official SDSeg checkpoint; the defaults are the real sizes."""
    raw = {f"diffusion_model.{name}": shape for name, shape in unet(**(unet_sizes or {}))}
    sizes = autoencoder_sizes or {}
    latent = sizes.get("latent", 4)
    return {
        **{f"model.{name}": shape for name, shape in raw.items()},
        "model_ema.decay": (),
        "model_ema.num_updates": (),
        **{"model_ema." + name.replace(".", ""): shape for name, shape in raw.items()},
        **{f"first_stage_model.{name}": shape for name, shape in autoencoder(**sizes)},
        **{f"cond_stage_model.{name}": shape for name, shape in encoder(**sizes)},
        **{f"cond_stage_model.{name}": shape for name, shape in conv("out", latent, 2 * latent, (1, 1))},
        "scale_factor": (),
        **dict.fromkeys(SCHEDULE, (timesteps,)),
    }


TINY = {
    "unet_sizes": {"channels": 32, "mult": (1, 2), "layers": 1, "attend": (False, True)},
    "autoencoder_sizes": {"channels": 32, "mult": (1, 1), "layers": 1},
}


def random_state(shapes, prefix="", seed=0):
    """Random tensors of ``shapes``, pairs of name and shape."""
    generator = torch.Generator().manual_seed(seed)
    return {prefix + name: 0.05 * torch.randn(shape, generator=generator) for name, shape in shapes}


def tiny_official(seed=0, **unet_sizes):
    """A tiny official state dict with random weights and a true schedule."""
    shapes = official({**TINY["unet_sizes"], **unet_sizes}, TINY["autoencoder_sizes"])
    state = random_state(shapes.items(), seed=seed)
    betas = torch.linspace(0.0015**0.5, 0.0155**0.5, 1000, dtype=torch.float64) ** 2
    state["betas"] = betas.float()
    state["alphas_cumprod"] = torch.cumprod(1 - betas, dim=0).float()
    state["scale_factor"] = torch.tensor(0.1147)
    state["model_ema.num_updates"] = torch.tensor(70000, dtype=torch.int32)
    return state


def size_of(state):
    """Return the bytes of the tensors of ``state``."""
    return sum(tensor.numel() * tensor.element_size() for tensor in state.values())
