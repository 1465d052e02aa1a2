"""SDSeg: latent diffusion segmentation in one reverse step, as one module."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple, get_args, overload

import torch
from torch import nn

from sdseg_monai.errors import InputError
from sdseg_monai.networks.autoencoder import MaskAutoencoder, TinyMaskAutoencoder
from sdseg_monai.networks.codes import LOGIT_GAIN, class_codes, class_logits, mask_to_image, score_from_mask_image
from sdseg_monai.networks.cross_attention import CrossAttentionUNet
from sdseg_monai.networks.pretrained import load_folder, save_folder
from sdseg_monai.networks.unet import DenoisingUNet
from sdseg_monai.networks.vision_encoder import TinyVisionEncoder, VisionEncoder
from sdseg_monai.schedule import NoiseSchedule, PredictionType
from sdseg_monai.seeding import seed_from, seeded_integers, seeded_normal

StartNoise = Literal["shared", "zeros"]
MaskLatent = Literal["mean", "sample"]
TrainTimesteps = Literal["all", "last"]


class SDSegOutput(NamedTuple):
    """What the loss needs from a training step; every latent and noise is [B, Z, h, w] in float32."""

    latent: torch.Tensor  # z_0, the scaled latent of the mask
    latent_pred: torch.Tensor  # its estimate, Eq. 2
    noise: torch.Tensor | None  # n; None where no noise was added or none is predicted
    noise_pred: torch.Tensor | None
    mask: torch.Tensor  # what the latent stands for, [B, 1, H, W], class of each pixel


class SDSeg(nn.Module):
    """Segment image slices with one denoising step from t = T-1 (Lin et al., MICCAI 2024).

    The state dict holds everything that inference needs: the frozen mask autoencoder, the vision encoder, the U-Net
    and ``scale_factor``, the reciprocal of the standard deviation of the training masks' latents. It is NaN until
    :class:`sdseg_monai.handlers.LatentScale` measures it or weights are loaded, so that a forgotten measurement shows.

    Args:
        autoencoder: mask autoencoder, frozen here.
        vision_encoder: image encoder.
        unet: denoising network over [mask latent, image latent], trained. A class-conditional one (the official
            multi-class checkpoints) needs one pass per class. A :class:`CrossAttentionUNet` instead is the baseline
            of the paper's ablation.
        schedule: noise schedule.
        prediction_type: what the U-Net predicts: ``epsilon`` (the paper), ``sample`` or ``v_prediction``.
        start_noise: z_T when ``forward`` is given none: ``shared``, one seeded tensor for every slice (the official
            code), or ``zeros``, which also trains at t = T-1 from zeros only and has no meaning for ``epsilon``.
        seed: seed of the shared start noise.
        num_inference_steps: reverse steps of ``forward``; more than the paper's one are DDIM's, without noise between.
        mask_latent: what training takes as z_0: the posterior's ``mean``, or a ``sample`` of it (the official code).
        train_vision_encoder: False freezes the vision encoder (the paper's ablation).
        train_decoder: True trains the autoencoder's decoder too; its encoder stays frozen.
        train_timesteps: ``all``, drawn uniformly (the paper), or ``last``, T-1 alone, inference's one step; a start
            from zeros trains there whatever this says.
        num_classes: classes of a pixel, the background's included, all in one pass by the codes of
            :func:`~sdseg_monai.networks.codes.class_codes`; None for those of a class-conditional U-Net, else 2.

    Raises:
        InputError: a class-conditional U-Net has another number of classes.
        ValueError: the three networks do not fit each other, or an option is unknown or contradicts another.
    """

    scale_factor: torch.Tensor
    class_codes: torch.Tensor  # [K, 3]

    def __init__(
        self,
        autoencoder: MaskAutoencoder | TinyMaskAutoencoder,
        vision_encoder: VisionEncoder | TinyVisionEncoder,
        unet: DenoisingUNet | CrossAttentionUNet,
        schedule: NoiseSchedule | None = None,
        prediction_type: PredictionType = "epsilon",
        start_noise: StartNoise = "shared",
        seed: int = 0,
        num_inference_steps: int = 1,
        mask_latent: MaskLatent = "mean",
        train_vision_encoder: bool = True,
        train_decoder: bool = False,
        train_timesteps: TrainTimesteps = "all",
        num_classes: int | None = None,
    ) -> None:
        super().__init__()
        _check_options(prediction_type, start_noise, mask_latent, train_timesteps, num_inference_steps)
        _check_fit(autoencoder, vision_encoder, unet)
        embedded = unet.config.num_class_embeds
        if embedded is not None and num_classes not in (None, embedded):
            raise InputError(
                f"num_classes={num_classes}, but the U-Net's class embedding has {embedded}: set the config's "
                f"num_classes to {embedded}"
            )
        self.num_classes: int = num_classes or embedded or 2
        self.class_conditional = embedded is not None
        self.autoencoder = autoencoder.requires_grad_(False).eval()
        self.train_decoder = train_decoder
        self.autoencoder.decoding_parts.requires_grad_(train_decoder)
        self.vision_encoder = vision_encoder.requires_grad_(train_vision_encoder)
        self.unet = unet
        self.num_inference_steps = num_inference_steps
        self.mask_latent: MaskLatent = mask_latent
        self.train_timesteps: TrainTimesteps = train_timesteps
        self.train_vision_encoder = train_vision_encoder
        self.schedule = NoiseSchedule() if schedule is None else schedule
        self.prediction_type: PredictionType = prediction_type
        self.start_noise: StartNoise = start_noise
        self.seed = seed
        self.register_buffer("scale_factor", torch.tensor(float("nan")))
        codes = class_codes(2 if self.class_conditional else self.num_classes)  # a class-conditional pass is binary
        # in the state dict where there are several classes, so that weights for other classes do not load
        self.register_buffer("class_codes", codes, persistent=len(codes) > 2)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> SDSeg:
        """Return the network that :meth:`save_pretrained` wrote, in float32 on the CPU, in evaluation mode.

        Nothing in the folder is executed, and every tensor and every option is accounted for. Folders of version
        0.4.0, whose parts are not diffusers' classes, are read too.

        Raises:
            InputError: a file is missing or damaged, or the tensors are not those of the configs.
        """
        return load_folder(cls, Path(folder))

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the network to a new folder, which appears whole or not at all.

        ``model_index.json`` names the class of each part and holds the options, the schedule and ``scale_factor``. Each
        part is a subfolder: ``autoencoder``, ``vision_encoder`` and ``unet``. Where a class of diffusers computes the
        same, the subfolder is what that class loads by its own ``from_pretrained``, with ``scale_factor`` as the
        autoencoder's ``scaling_factor``. Any other part (a vision encoder, a distilled :class:`MaskDecoder`, a U-Net
        whose heads have other numbers of channels at other levels) has its weights under a name that diffusers does not
        look for: it refuses the part, where it would otherwise load what it knows of it.

        Raises:
            InputError: the folder exists and is not empty, or cannot be written; the network lacks its mask encoder or
                its latent scale.
        """
        save_folder(self, Path(folder))

    @property
    def trained_parts(self) -> nn.ModuleDict:
        """The parts that training changes."""
        parts: dict[str, nn.Module] = {"unet": self.unet}
        if self.train_vision_encoder:
            parts = {"vision_encoder": self.vision_encoder, **parts}
        return nn.ModuleDict({**parts, **(self.autoencoder.decoding_parts if self.train_decoder else {})})

    @property
    def meaning(self) -> dict[str, str]:
        """What the weights mean beyond their shapes: a training that goes on with other options would spoil them."""
        names = ("prediction_type", "start_noise", "mask_latent")
        return {name: getattr(self, name) for name in names}

    def train(self, mode: bool = True) -> SDSeg:
        """Set the mode of the trained parts; the others stay in evaluation mode."""
        super().train(mode)
        self.autoencoder.eval()
        if not self.train_vision_encoder:
            self.vision_encoder.eval()
        return self

    def latent_shape(self, image: torch.Tensor) -> tuple[int, int, int]:
        """Return (Z, h, w) of the latent of ``image`` [B, C, H, W].

        Raises:
            InputError: H or W is no multiple of what the autoencoder and the U-Net together divide it by.
        """
        height, width = image.shape[-2:]
        f = self.autoencoder.downsampling
        multiple = f * 2 ** (len(self.unet.config.block_out_channels) - 1)
        if height % multiple or width % multiple:
            raise InputError(f"image is {height}x{width}: expected multiples of {multiple}, set the config's size so")
        return self.autoencoder.latent_channels, height // f, width // f

    def encode_image(self, image: torch.Tensor) -> torch.Tensor:
        """Encode ``image`` [B, 3, H, W] in [-1, 1] to the conditioning latent z_c [B, Z, h, w]."""
        return self.vision_encoder(image)

    def encode_mask(self, mask: torch.Tensor, noise: torch.Tensor | None = None, *, scale: bool = True) -> torch.Tensor:
        """Encode ``mask`` [B, 1, H, W] in {0..K-1} to its latent, [B, Z, h, w], scaled unless told not to; no gradient.

        The latent is the posterior's mean, or, given standard normal ``noise`` [B, Z, h, w], a sample of it.
        """
        mask_image = mask_to_image(mask, self.class_codes).to(self.autoencoder.dtype)
        with torch.no_grad():
            latent = self.autoencoder.encode_latent(mask_image, noise).float()
        return latent * self.scale_factor if scale else latent

    def draw_class(self, mask: torch.Tensor, seeds: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw the class of each sample that a class-conditional network is trained on; class 0 is all others' union.

        Args:
            mask: [B, 1, H, W] in {0..K-1}.
            seeds: [B], int64.

        Returns:
            The classes' binary masks [B, 1, H, W], and the classes [B], int64.

        Source: official-behaviour, section 2.
        """
        class_labels = seeded_integers(_keys("class", seeds), self.num_classes).to(mask.device)
        labels = class_labels.view(-1, 1, 1, 1)
        return torch.where(labels == 0, mask > 0, mask == labels).to(mask.dtype), class_labels

    def estimate_latent(
        self, noisy_latent: torch.Tensor, prediction: torch.Tensor, timesteps: torch.Tensor
    ) -> torch.Tensor:
        """Turn the U-Net's prediction into the estimate of z_0 (Eq. 2), [B, Z, h, w], float32."""
        return self.schedule.estimate_latent(noisy_latent, prediction, timesteps, self.prediction_type)

    def decode(self, latent: torch.Tensor) -> torch.Tensor:
        """Decode a scaled latent [B, Z, h, w] to the mask image [B, 3, H, W], about [-1, 1], not clamped."""
        return self.autoencoder.decode((latent / self.scale_factor).to(self.autoencoder.dtype)).sample

    def decode_score(self, latent: torch.Tensor) -> torch.Tensor:
        """Decode a scaled latent [B, Z, h, w] to what :meth:`forward` returns of it."""
        return score_from_mask_image(self.decode(latent), self.class_codes)

    def decode_logits(self, latent: torch.Tensor) -> torch.Tensor:
        """Decode a scaled latent [B, Z, h, w] to one logit per class, [B, K, H, W], for the segmentation loss."""
        return class_logits(self.decode(latent), self.class_codes)

    @overload
    def forward(self, image: torch.Tensor, noise: torch.Tensor | None = None) -> torch.Tensor: ...

    @overload
    def forward(
        self, image: torch.Tensor, *, mask: torch.Tensor, seeds: torch.Tensor, latent: torch.Tensor | None = None
    ) -> SDSegOutput: ...

    def forward(
        self,
        image: torch.Tensor,
        noise: torch.Tensor | None = None,
        *,
        mask: torch.Tensor | None = None,
        seeds: torch.Tensor | None = None,
        latent: torch.Tensor | None = None,
    ) -> torch.Tensor | SDSegOutput:
        """Segment, or, given ``mask`` and ``seeds``, run one training step's forward pass.

        Args:
            image: [B, 3, H, W] in [-1, 1].
            noise: z_T, [B or 1, Z, h, w]; drawn as ``start_noise`` says when absent.
            mask: [B, 1, H, W] in {0..K-1}.
            seeds: [B], int64, one seed per sample for its timestep and noise.
            latent: what :meth:`encode_mask` makes of ``mask``, where it was kept; not scaled, [B, Z, h, w].

        Returns:
            Of two classes the foreground's score [B, 1, H, W] in [0, 1], foreground from 0.5; of more one score per
            class, [B, K, H, W], their sum 1; or an :class:`SDSegOutput`.

        Raises:
            InputError: H or W is no multiple of what the autoencoder and the U-Net together divide it by.
            ValueError: noise is given to a network that starts from zeros, or only one of ``mask`` and ``seeds``.
        """
        if (mask is None) != (seeds is None):
            raise ValueError("a training step needs both mask and seeds, got only one of them")
        if mask is not None and seeds is not None:
            return self._training_forward(image, mask, seeds, latent)
        self.latent_shape(image)  # checks
        return self.segment_latent(self.encode_image(image), noise)

    def segment_latent(self, image_latent: torch.Tensor, noise: torch.Tensor | None = None) -> torch.Tensor:
        """Segment from the image's latent z_c, [B, Z, h, w], as :meth:`forward`; several noises share one encoding.

        The scores of a class-conditional network are the softmax of its maps, of about [-1, 1], so scaled that a map
        of 1 lies ``LOGIT_GAIN`` above one of -1, as a class on its code does above the next.
        """
        if not self.class_conditional:
            *_, latent = self.reverse(image_latent, noise)
            return self.decode_score(latent)
        maps = [self._class_map(image_latent, noise, index) for index in range(self.num_classes)]
        return (LOGIT_GAIN / 2 * torch.cat(maps, dim=1)).softmax(dim=1)

    def reverse(
        self,
        image_latent: torch.Tensor,
        noise: torch.Tensor | None = None,
        num_steps: int | None = None,
        class_labels: torch.Tensor | None = None,
    ) -> Iterator[torch.Tensor]:
        """Run the reverse process; yields each step's estimate of z_0, [B, Z, h, w], the last is the result.

        Args:
            image_latent: z_c, [B, Z, h, w].
            noise: z_T as in :meth:`forward`.
            num_steps: reverse steps; None for ``num_inference_steps``.
            class_labels: [B], int64; for a class-conditional network.
        """
        shape = (self.autoencoder.latent_channels, *image_latent.shape[-2:])
        noisy_latent = self._start_noise(shape, noise).to(image_latent).expand(len(image_latent), *shape)
        steps = self.schedule.reverse_timesteps(num_steps or self.num_inference_steps)
        for index, timestep in enumerate(steps):
            timesteps = torch.full((len(image_latent),), timestep, device=image_latent.device)
            prediction = self.unet.predict(noisy_latent, image_latent, timesteps, class_labels)
            latent = self.estimate_latent(noisy_latent, prediction, timesteps)
            yield latent
            if index + 1 < len(steps):
                previous = torch.full_like(timesteps, steps[index + 1])
                noisy_latent = self.schedule.step(noisy_latent, latent, timesteps, previous).to(image_latent)

    def _class_map(self, image_latent: torch.Tensor, noise: torch.Tensor | None, index: int) -> torch.Tensor:
        """Decode one class to [B, 1, H, W], not clamped; class 0 was trained on the union of the others, so negated.

        Source: official-behaviour, section 2.
        """
        class_labels = torch.full((len(image_latent),), index, device=image_latent.device)
        *_, latent = self.reverse(image_latent, noise, class_labels=class_labels)
        class_map = self.decode(latent).float().mean(dim=1, keepdim=True)
        return -class_map if index == 0 else class_map

    def _start_noise(self, shape: tuple[int, int, int], noise: torch.Tensor | None) -> torch.Tensor:
        if self.start_noise == "zeros":
            if noise is not None:
                raise ValueError(
                    "noise was given to a network with start_noise='zeros': it was trained from zeros only"
                )
            return torch.zeros(1, *shape)
        if noise is not None:
            return noise
        shared = seeded_normal(torch.tensor([self.seed]), shape)
        # a trace would record the drawing, without its generator: give it the numbers
        return torch.from_numpy(shared.numpy()) if torch.jit.is_tracing() else shared

    def _training_forward(
        self, image: torch.Tensor, mask: torch.Tensor, seeds: torch.Tensor, latent: torch.Tensor | None
    ) -> SDSegOutput:
        shape = self.latent_shape(image)
        class_labels = None
        if self.class_conditional:
            mask, class_labels = self.draw_class(mask, seeds)
        if latent is None or self.class_conditional:
            latent = self.encode_mask(mask, self._posterior_noise(seeds, shape))
        else:
            latent = latent.float() * self.scale_factor
        image_latent = self.encode_image(image)
        if self.train_timesteps == "last" or self.start_noise == "zeros":
            timesteps = torch.full((len(image),), self.schedule.num_timesteps - 1, device=image.device)
        else:
            timesteps = seeded_integers(seeds, self.schedule.num_timesteps).to(image.device)
        if self.start_noise == "zeros":
            noise, noisy_latent = None, torch.zeros_like(latent)
        else:
            noise = seeded_normal(seeds, shape).to(latent)
            noisy_latent = self.schedule.add_noise(latent, noise, timesteps)
        prediction = self.unet.predict(noisy_latent, image_latent, timesteps, class_labels)
        latent_pred = self.estimate_latent(noisy_latent, prediction, timesteps)
        noise_pred = None
        if noise is not None:
            noise_pred = self.schedule.estimate_noise(noisy_latent, prediction, timesteps, self.prediction_type)
        return SDSegOutput(latent, latent_pred, None if noise_pred is None else noise, noise_pred, mask)

    def _posterior_noise(self, seeds: torch.Tensor, shape: tuple[int, int, int]) -> torch.Tensor | None:
        if self.mask_latent == "mean":
            return None
        return seeded_normal(_keys("posterior", seeds), shape).to(seeds.device)


def _keys(name: str, seeds: torch.Tensor) -> torch.Tensor:
    """Return seeds for another drawing, ``name``, of the samples of ``seeds`` [B]."""
    return torch.tensor([seed_from(name, seed) for seed in seeds.tolist()])


def _check_options(
    prediction_type: str, start_noise: str, mask_latent: str, train_timesteps: str, num_inference_steps: int
) -> None:
    for name, value, known in (
        ("prediction_type", prediction_type, get_args(PredictionType)),
        ("start_noise", start_noise, get_args(StartNoise)),
        ("mask_latent", mask_latent, get_args(MaskLatent)),
        ("train_timesteps", train_timesteps, get_args(TrainTimesteps)),
    ):
        if value not in known:
            raise ValueError(f"{name}={value!r} is unknown: expected one of {', '.join(known)}")
    if start_noise == "zeros" and prediction_type == "epsilon":
        raise ValueError(
            "start_noise='zeros' with prediction_type='epsilon' has nothing to predict: use 'sample' or 'v_prediction'"
        )
    if start_noise == "zeros" and num_inference_steps != 1:
        raise ValueError(
            f"start_noise='zeros' with num_inference_steps={num_inference_steps}: it is trained at t = T-1 only, use 1"
        )


def _check_fit(
    autoencoder: MaskAutoencoder | TinyMaskAutoencoder,
    vision_encoder: VisionEncoder | TinyVisionEncoder,
    unet: DenoisingUNet | CrossAttentionUNet,
) -> None:
    z = autoencoder.latent_channels
    if vision_encoder.downsampling != autoencoder.downsampling:
        raise ValueError(
            f"vision encoder divides the resolution by {vision_encoder.downsampling}, mask autoencoder by "
            f"{autoencoder.downsampling}: give both the same number of block_out_channels"
        )
    config = unet.config
    if isinstance(unet, CrossAttentionUNet):
        found, expected = [config.in_channels, config.cross_attention_dim], [z, vision_encoder.latent_channels]
        meaning = "input and cross-attention channels"
    else:
        found, expected = [config.in_channels], [z + vision_encoder.latent_channels]
        meaning = "input channels (mask and image latent)"
    if found != expected or config.out_channels != z:
        raise ValueError(
            f"U-Net has {', '.join(map(str, found))} {meaning} and {config.out_channels} output channels: expected "
            f"{', '.join(map(str, expected))} and {z}"
        )
