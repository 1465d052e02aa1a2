"""Figures 2, 3, 5 and 6 of the paper, from the experiments of a study."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import matplotlib
import numpy as np
import torch
from monai.bundle import ConfigParser
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lab.study import Study, load_volume, segment
from sdseg_monai.evaluation import compare_masks
from sdseg_monai.networks.codes import mask_to_image
from sdseg_monai.transforms import extract_slices, resize_labels, resize_slices, to_three_channels
from sdseg_monai.visualize import join_pictures, latent_panel

matplotlib.use("Agg")
from matplotlib import pyplot as plt

EXAMPLES = 4
CONVERGENCE_STEPS = (1, 2, 5, 10, 20)
REVERSE_STEPS = 10


@torch.inference_mode()
def reconstructions(study: Study, experiment: str, path: Path) -> None:
    """Figure 2: masks, the channels of their latents, and their reconstructions by the autoencoder."""
    parser = study.trained(experiment)
    network = parser.get_parsed_content("network")
    _, masks = _examples(study, parser)
    latents = network.encode_mask(masks)
    reconstructed_scores = network.decode_score(latents).cpu()
    mask_images = mask_to_image(masks, network.class_codes).cpu().numpy()
    panel = latent_panel(mask_images, latents.cpu().numpy())
    reconstruction = join_pictures([_grey(score) for score in reconstructed_scores[:, 0].numpy()], axis=0)
    _save(path, join_pictures([panel, reconstruction], axis=1))


@torch.inference_mode()
def convergence(study: Study, experiments: list[str], path: Path) -> None:
    """Figure 3: validation Dice against the number of DDIM steps, with and without the latent loss."""
    figure, axes = plt.subplots(figsize=(5, 3.5))
    for experiment in experiments:
        parser = study.trained(experiment)
        network = parser.get_parsed_content("network")
        cases = [load_volume(parser, item) for item in study.items("validation")]
        means = []
        for num_steps in CONVERGENCE_STEPS:
            network.num_inference_steps = num_steps
            masks = [segment(parser, case) > 0 for case in cases]
            dice = [compare_masks("", m, c["label"][0] > 0).dice for m, c in zip(masks, cases, strict=True)]
            means.append(100 * np.mean(dice))
        axes.plot(CONVERGENCE_STEPS, means, marker="o", label=experiment)
    axes.set(xscale="log", xlabel="DDIM steps", ylabel=f"Dice of {len(cases)} validation cases, %")
    axes.set_xticks(CONVERGENCE_STEPS, [str(step) for step in CONVERGENCE_STEPS])
    axes.minorticks_off()
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120, bbox_inches="tight")
    plt.close(figure)


@torch.inference_mode()
def reverse_process(study: Study, experiment: str, path: Path) -> None:
    """Figure 5: each image, its label, and the score after each of ten DDIM steps."""
    parser = study.trained(experiment)
    network = parser.get_parsed_content("network")
    images, masks = _examples(study, parser)
    rows = []
    for image, mask in zip(images, masks, strict=True):
        latents = network.reverse(network.encode_image(image[None]), num_steps=REVERSE_STEPS)
        scores = [network.decode_score(latent)[0, 0].cpu().numpy() for latent in latents]
        picture = ((image.cpu().numpy() + 1) / 2).clip(0, 1).transpose(1, 2, 0)
        rows.append(join_pictures([picture, _grey(mask[0].cpu().numpy()), *map(_grey, scores)], axis=1))
    _save(path, join_pictures(rows, axis=0))


def image_latents(study: Study, experiment: str, path: Path) -> None:
    """Figure 6: image latents before, during and after the training, as it logged them for TensorBoard."""
    events = EventAccumulator(str(study.run_folder(experiment) / "logs"), size_guidance={"images": 0}).Reload()
    latents = events.Images("training/image_latent")
    by_step = {event.step: event for event in latents}  # of a resumed training the last one of each step
    steps = sorted(by_step)
    figure, axes = plt.subplots(1, 3, figsize=(15, 4))
    for axis, step in zip(axes, (steps[0], steps[len(steps) // 2], steps[-1]), strict=True):
        axis.imshow(Image.open(BytesIO(by_step[step].encoded_image_string)))
        axis.set(title=f"step {step}", xticks=[], yticks=[])
    figure.savefig(path, dpi=100, bbox_inches="tight")
    plt.close(figure)


def _examples(study: Study, parser: ConfigParser) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images [N, 3, H, W] and masks [N, 1, H, W]: the slice with most foreground of each of a few test cases."""
    axis, size, device = parser["slice_axis"], parser["size"], parser.get_parsed_content("device")
    images, masks = [], []
    for item in study.items("test")[:EXAMPLES]:
        data = load_volume(parser, item)
        image, label = (data[key].as_subclass(torch.Tensor) for key in ("image", "label"))
        index = int(label[0].movedim(axis, 0).flatten(1).sum(1).argmax())
        images.append(to_three_channels(resize_slices(extract_slices(image, axis, index, index + 1), size)))
        masks.append(resize_labels(extract_slices(label, axis, index, index + 1), size))
    return torch.cat(images).to(device), torch.cat(masks).to(device)


def _grey(score: np.ndarray) -> np.ndarray:
    return np.repeat(score[..., None], 3, axis=2)


def _save(path: Path, panel: np.ndarray) -> None:
    Image.fromarray((255 * panel.clip(0, 1)).astype(np.uint8)).save(path)
