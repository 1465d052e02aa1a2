"""SDSeg: latent diffusion segmentation with a single reverse step, as one module."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, overload

import torch
from torch import nn

from sdseg_monai.errors import InputError
from sdseg_monai.networks.autoencoder import MaskAutoencoder
from sdseg_monai.networks.codes import (
    LOGIT_GAIN,
    check_channels,
    class_codes,
    class_logits,
    mask_to_image,
    score_from_mask_image,
)
from sdseg_monai.networks.cross_attention import CrossAttentionUNet
from sdseg_monai.networks.known_images import IMAGES, image_distance, latent_features
from sdseg_monai.networks.lite import LiteVisionEncoder
from sdseg_monai.networks.pretrained import load_folder, save_folder
from sdseg_monai.networks.tiny import TinyMaskAutoencoder, TinyVisionEncoder
from sdseg_monai.networks.unet import DenoisingUNet
from sdseg_monai.networks.vision_encoder import VisionEncoder
from sdseg_monai.schedule import NoiseSchedule, PredictionType
from sdseg_monai.seeding import seed_from, seeded_integers, seeded_normal

StartNoise = Literal["shared", "zeros"]
MaskLatent = Literal["mean", "sample"]
TrainTimesteps = Literal["all", "last"]
DrawnClasses = Literal["all", "present"]


class SDSegOutput(NamedTuple):
    """Output of a training step, input of the loss; every latent and noise is [B, Z, h, w] in float32."""

    latent: torch.Tensor  # z_0, the scaled latent of the mask
    latent_pred: torch.Tensor  # estimate of z_0, Eq. 2
    noise: torch.Tensor | None  # n; None where no noise was added or the U-Net predicts none
    noise_pred: torch.Tensor | None  # estimate of n
    mask: torch.Tensor  # the mask of z_0, [B, 1, H, W], class of each pixel


class SDSeg(nn.Module):
    """Segment image slices with one denoising step from t = T-1 (Lin et al., MICCAI 2024).

    The state dict holds everything that inference needs: the frozen mask autoencoder, the vision encoder, the U-Net
    and ``scale_factor``, the reciprocal of the standard deviation of the training masks' latents. This factor is NaN
    until :class:`sdseg_monai.handlers.LatentScale` measures it or weights are loaded: a network without it gives NaN
    instead of wrong masks.

    Args:
        autoencoder: mask autoencoder; the constructor freezes it.
        vision_encoder: image encoder.
        unet: denoising network over [mask latent, image latent]; trained. A class-conditional one (the official
            multi-class checkpoints) needs one pass per class. A :class:`CrossAttentionUNet` gives the baseline of the
            paper's ablation.
        schedule: noise schedule; None for the paper's.
        prediction_type: what the U-Net predicts: ``epsilon`` (the paper), ``sample`` or ``v_prediction``.
        start_noise: z_T if ``forward`` gets no noise: ``shared``, one seeded tensor for every slice (the official
            code), or ``zeros``. With ``zeros`` training, too, starts from zeros at t = T-1 only, and ``epsilon`` is not
            possible.
        seed: seed of the shared start noise.
        num_inference_steps: reverse steps of ``forward``; the paper has 1, more are deterministic DDIM steps.
        mask_latent: z_0 of a training mask: the posterior's ``mean``, or a ``sample`` of it (the official code).
        train_vision_encoder: False freezes the vision encoder (the paper's ablation).
        train_decoder: True trains the autoencoder's decoder too; its encoder stays frozen.
        train_timesteps: timesteps of training: ``all``, drawn uniformly (the paper), or ``last``, only T-1, that of
            single-step inference; with ``start_noise`` ``zeros`` it is T-1 in any case.
        drawn_classes: classes on which a class-conditional network is trained: ``all``, or only those ``present`` in
            the slice (the official code, whose network therefore never learns that a slice may lack a class).
        num_classes: K, classes of a pixel including the background. All are segmented in one pass, by the codes of
            :func:`~sdseg_monai.networks.codes.class_codes`, which the autoencoder must have been built for. None takes
            the number of a class-conditional U-Net, else 2.

    Raises:
        InputError: a class-conditional U-Net has another number of classes, or the autoencoder's mask image has not the
            channels of these classes.
        ValueError: the three networks do not fit each other, or an option is unknown or contradicts another.

    Example:
        >>> sizes = {"block_out_channels": [8, 16, 16], "layers_per_block": 1, "norm_num_groups": 4}
        >>> unet = DenoisingUNet(8, 4, [16, 32], [False, True], 1, num_heads=4, norm_num_groups=8)
        >>> network = SDSeg(MaskAutoencoder(**sizes), VisionEncoder(**sizes), unet).eval()
        >>> _ = network.scale_factor.fill_(1)  # LatentScale measures it in a training
        >>> network(torch.zeros(1, 3, 32, 32)).shape
        torch.Size([1, 1, 32, 32])
    """

    scale_factor: torch.Tensor
    class_codes: torch.Tensor  # [K, C]

    def __init__(
        self,
        autoencoder: MaskAutoencoder | TinyMaskAutoencoder,
        vision_encoder: VisionEncoder | TinyVisionEncoder | LiteVisionEncoder,
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
        drawn_classes: DrawnClasses = "all",
    ) -> None:
        super().__init__()
        _check_options(prediction_type, start_noise, mask_latent, train_timesteps, drawn_classes, num_inference_steps)
        _check_fit(autoencoder, vision_encoder, unet)
        embedding_classes = unet.config.num_class_embeds
        if embedding_classes is not None and num_classes not in (None, embedding_classes):
            raise InputError(
                f"num_classes={num_classes}, but the U-Net's class embedding has {embedding_classes}: set the config's "
                f"num_classes to {embedding_classes}"
            )
        self.num_classes: int = num_classes or embedding_classes or 2
        self.class_conditional = embedding_classes is not None
        self.autoencoder = autoencoder.requires_grad_(False).eval()
        self.train_decoder = train_decoder
        self.autoencoder.decoding_parts.requires_grad_(train_decoder)
        self.vision_encoder = vision_encoder.requires_grad_(train_vision_encoder)
        self.unet = unet
        self.num_inference_steps = num_inference_steps
        self.mask_latent: MaskLatent = mask_latent
        self.train_timesteps: TrainTimesteps = train_timesteps
        self.drawn_classes: DrawnClasses = drawn_classes
        self.train_vision_encoder = train_vision_encoder
        self.schedule = NoiseSchedule() if schedule is None else schedule
        self.prediction_type: PredictionType = prediction_type
        self.start_noise: StartNoise = start_noise
        self.seed = seed
        self.trained_for: dict[str, Any] = {}  # what the file of the weights says of their training
        self.register_buffer("scale_factor", torch.tensor(float("nan")))
        codes = class_codes(2 if self.class_conditional else self.num_classes)  # a class-conditional pass is binary
        check_channels(len(codes), autoencoder.mask_channels)
        # more than two classes: in the state dict, so that weights for another number of classes do not load
        self.register_buffer("class_codes", codes, persistent=len(codes) > 2)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> SDSeg:
        """Return the network that :meth:`save_pretrained` wrote, in float32 on the CPU, in evaluation mode.

        Nothing in the folder is executed, and an unknown, missing or extra tensor or option is an error. Folders of
        version 0.4.0, whose parts are not diffusers' classes, are read too.

        Args:
            folder: the folder with ``model_index.json``.

        Raises:
            InputError: a file is missing or damaged, or the tensors are not those of the configs.
        """
        return load_folder(cls, Path(folder))

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the network to a new folder, completely or not at all.

        ``model_index.json`` names the class of each part and holds the options, the schedule and ``scale_factor``. Each
        part is a subfolder: ``autoencoder``, ``vision_encoder`` and ``unet``. If a class of diffusers computes the
        same as the part, that class loads the subfolder by its own ``from_pretrained``; ``scale_factor`` is then the
        autoencoder's ``scaling_factor``. The weights of any other part (a vision encoder, a distilled
        :class:`MaskDecoder`, a U-Net whose heads do not have the same number of channels at every level) are in a file
        that diffusers does not look for, so that diffusers refuses the part instead of loading some of its tensors.

        Args:
            folder: a folder that does not exist or is empty.

        Raises:
            InputError: the folder exists and is not empty, or cannot be written; the network has no mask encoder or no
                latent scale.
        """
        save_folder(self, Path(folder))

    @property
    def trained_parts(self) -> nn.ModuleDict:
        """The modules that training updates, by name."""
        parts: dict[str, nn.Module] = {"unet": self.unet}
        if self.train_vision_encoder:
            parts = {"vision_encoder": self.vision_encoder, **parts}
        return nn.ModuleDict({**parts, **(self.autoencoder.decoding_parts if self.train_decoder else {})})

    @property
    def training_options(self) -> dict[str, str]:
        """The options that the weights depend on: a training that continues with other options would spoil them."""
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
            InputError: H or W is not a multiple of the factor by which autoencoder and U-Net together divide it.
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

    def image_distance(self, image: torch.Tensor) -> torch.Tensor | None:
        """Return how far images [B, 3, H, W] in [-1, 1] lie from those of the training, [B], float64, on the CPU.

        The unit is the distance within which 98 % of the images lie that validated the training. None where the weights
        do not say it, see :mod:`sdseg_monai.networks.known_images`.
        """
        known = self.trained_for.get(IMAGES)
        if known is None:
            return None
        return image_distance(latent_features(self.encode_image(image)), known) / known["usual"]

    def encode_mask(self, mask: torch.Tensor, noise: torch.Tensor | None = None, *, scale: bool = True) -> torch.Tensor:
        """Encode a mask to its latent, without gradients.

        Args:
            mask: class of each pixel, [B, 1, H, W] in {0..K-1}.
            noise: standard normal, [B, Z, h, w], to take a sample of the posterior; None takes its mean.
            scale: multiply the latent by ``scale_factor``.

        Returns:
            [B, Z, h, w], float32.
        """
        mask_image = mask_to_image(mask, self.class_codes).to(self.autoencoder.dtype)
        with torch.no_grad():
            latent = self.autoencoder.encode_latent(mask_image, noise).float()
        return latent * self.scale_factor if scale else latent

    def draw_class(self, mask: torch.Tensor, seeds: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw a class for each sample, on whose binary mask a class-conditional network is trained.

        For class 0 the binary mask is the union of all other classes.

        Args:
            mask: class of each pixel, [B, 1, H, W] in {0..K-1}.
            seeds: [B], int64, one seed per sample.

        Returns:
            The binary masks [B, 1, H, W] of the classes, and the classes [B], int64.

        Source: official-behaviour, section 2.
        """
        class_seeds = _purpose_seeds("class", seeds)
        if self.drawn_classes == "all":
            class_labels = seeded_integers(class_seeds, self.num_classes)
        else:
            present_classes = [sample.unique().long().cpu() for sample in mask]
            class_labels = torch.cat(
                [
                    classes[seeded_integers(class_seed[None], len(classes))]
                    for classes, class_seed in zip(present_classes, class_seeds, strict=True)
                ]
            )
        class_labels = class_labels.to(mask.device)
        labels = class_labels.view(-1, 1, 1, 1)
        return torch.where(labels == 0, mask > 0, mask == labels).to(mask.dtype), class_labels

    def estimate_latent(
        self, noisy_latent: torch.Tensor, prediction: torch.Tensor, timesteps: torch.Tensor
    ) -> torch.Tensor:
        """Return the estimate of z_0 (Eq. 2), [B, Z, h, w] in float32, for the U-Net's ``prediction`` from z_t.

        Args:
            noisy_latent: z_t, [B, Z, h, w].
            prediction: of the kind ``prediction_type``, [B, Z, h, w].
            timesteps: [B], int64 in [0, T).
        """
        return self.schedule.estimate_latent(noisy_latent, prediction, timesteps, self.prediction_type)

    def decode(self, latent: torch.Tensor) -> torch.Tensor:
        """Decode a scaled latent [B, Z, h, w] to the mask image [B, C, H, W].

        Its channels are colours, about [-1, 1] and not clamped, or the logits of more classes.
        """
        return self.autoencoder.decode((latent / self.scale_factor).to(self.autoencoder.dtype)).sample

    def decode_score(self, latent: torch.Tensor) -> torch.Tensor:
        """Decode a scaled latent [B, Z, h, w] to the score that :meth:`forward` returns."""
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
        """Segment, or, with ``mask`` and ``seeds``, run the forward pass of a training step.

        Args:
            image: [B, 3, H, W] in [-1, 1].
            noise: z_T, [B or 1, Z, h, w], standard normal; None takes the network's ``start_noise``.
            mask: class of each pixel, [B, 1, H, W] in {0..K-1}.
            seeds: [B], int64, one seed per sample for its timestep and noise.
            latent: cached latent of ``mask`` from :meth:`encode_mask`, not scaled, [B, Z, h, w]; None to encode here.

        Returns:
            With two classes the foreground's score [B, 1, H, W] in [0, 1], where 0.5 and more is foreground; with more
            classes one score per class, [B, K, H, W], which sum to 1. In a training step an :class:`SDSegOutput`.

        Raises:
            InputError: H or W is not a multiple of the factor by which autoencoder and U-Net together divide it.
            ValueError: a network that starts from zeros gets noise, or only one of ``mask`` and ``seeds`` is given.
        """
        if (mask is None) != (seeds is None):
            raise ValueError("a training step needs both mask and seeds, got only one of them")
        if mask is not None and seeds is not None:
            return self._training_forward(image, mask, seeds, latent)
        self.latent_shape(image)  # raises if the size does not fit
        return self.segment_latent(self.encode_image(image), noise)

    def segment_latent(self, image_latent: torch.Tensor, noise: torch.Tensor | None = None) -> torch.Tensor:
        """Segment as :meth:`forward` does, but from the image latent, so that several noises need one encoding only.

        The scores of a class-conditional network are the softmax of its class maps, which are about [-1, 1]. The scale
        is that of :func:`~sdseg_monai.networks.codes.class_logits`: a map of 1 is ``LOGIT_GAIN`` above a map of -1.

        Args:
            image_latent: z_c, [B, Z, h, w], from :meth:`encode_image`.
            noise: z_T as in :meth:`forward`.

        Returns:
            The score as in :meth:`forward`.
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
        """Run the reverse process; yield the estimate of z_0 after each step, the last of which is the result.

        Args:
            image_latent: z_c, [B, Z, h, w].
            noise: z_T as in :meth:`forward`.
            num_steps: reverse steps; None for ``num_inference_steps``.
            class_labels: [B], int64; for a class-conditional network.

        Yields:
            [B, Z, h, w], float32, scaled.
        """
        shape = (self.autoencoder.latent_channels, *image_latent.shape[-2:])
        noisy_latent = self._start_noise(shape, noise).to(image_latent).expand(len(image_latent), *shape)
        reverse_timesteps = self.schedule.reverse_timesteps(num_steps or self.num_inference_steps)
        for index, timestep in enumerate(reverse_timesteps):
            timesteps = torch.full((len(image_latent),), timestep, device=image_latent.device)
            prediction = self.unet.predict(noisy_latent, image_latent, timesteps, class_labels)
            latent = self.estimate_latent(noisy_latent, prediction, timesteps)
            yield latent
            if index + 1 < len(reverse_timesteps):
                prev_timesteps = torch.full_like(timesteps, reverse_timesteps[index + 1])
                noisy_latent = self.schedule.step(noisy_latent, latent, timesteps, prev_timesteps).to(image_latent)

    def _class_map(self, image_latent: torch.Tensor, noise: torch.Tensor | None, index: int) -> torch.Tensor:
        """Return the map of one class, [B, 1, H, W], about [-1, 1], not clamped.

        The map of class 0 is negated, because class 0 is trained on the union of all other classes.

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
        start_noise = seeded_normal(torch.tensor([self.seed]), shape)
        # a trace would record the random draw, but not its generator: NumPy makes the values a constant of the trace
        return torch.from_numpy(start_noise.numpy()) if torch.jit.is_tracing() else start_noise

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
        return seeded_normal(_purpose_seeds("posterior", seeds), shape).to(seeds.device)


def _purpose_seeds(purpose: str, seeds: torch.Tensor) -> torch.Tensor:
    """Return seeds [B] for draws of another ``purpose`` for the samples of ``seeds`` [B], independent of the others."""
    return torch.tensor([seed_from(purpose, seed) for seed in seeds.tolist()])


def _check_options(
    prediction_type: str,
    start_noise: str,
    mask_latent: str,
    train_timesteps: str,
    drawn_classes: str,
    num_inference_steps: int,
) -> None:
    for name, value, choices in (
        ("prediction_type", prediction_type, get_args(PredictionType)),
        ("start_noise", start_noise, get_args(StartNoise)),
        ("mask_latent", mask_latent, get_args(MaskLatent)),
        ("train_timesteps", train_timesteps, get_args(TrainTimesteps)),
        ("drawn_classes", drawn_classes, get_args(DrawnClasses)),
    ):
        if value not in choices:
            raise ValueError(f"{name}={value!r} is unknown: expected one of {', '.join(choices)}")
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
    vision_encoder: VisionEncoder | TinyVisionEncoder | LiteVisionEncoder,
    unet: DenoisingUNet | CrossAttentionUNet,
) -> None:
    latent_channels = autoencoder.latent_channels
    if vision_encoder.downsampling != autoencoder.downsampling:
        raise ValueError(
            f"vision encoder divides the resolution by {vision_encoder.downsampling}, mask autoencoder by "
            f"{autoencoder.downsampling}: give both the same number of block_out_channels"
        )
    config = unet.config
    if isinstance(unet, CrossAttentionUNet):
        channels = [config.in_channels, config.cross_attention_dim]
        expected_channels = [latent_channels, vision_encoder.latent_channels]
        description = "input and cross-attention channels"
    else:
        channels = [config.in_channels]
        expected_channels = [latent_channels + vision_encoder.latent_channels]
        description = "input channels (mask and image latent)"
    if channels != expected_channels or config.out_channels != latent_channels:
        raise ValueError(
            f"U-Net has {', '.join(map(str, channels))} {description} and {config.out_channels} output channels: "
            f"expected {', '.join(map(str, expected_channels))} and {latent_channels}"
        )
