"""Handlers that draw pictures for TensorBoard."""

from __future__ import annotations

from pathlib import Path

import torch
from ignite.engine import Engine, Events
from torch.utils.data import Dataset
from torch.utils.tensorboard import SummaryWriter

from sdseg_monai.networks import SDSeg
from sdseg_monai.visualize import latent_panel, picture_panel, slice_panel

IMAGES_SHOWN = 4


class PanelHandler:
    """Show image, label and prediction of the first validation case side by side in TensorBoard.

    Args:
        log_dir: TensorBoard folder.
        slice_axis: axis across which slices are taken; the slice with the largest area of label is shown.
    """

    def __init__(self, log_dir: str | Path, slice_axis: int) -> None:
        self.log_dir = str(log_dir)
        self.slice_axis = slice_axis

    def attach(self, engine: Engine) -> None:
        """Attach to the evaluator."""
        engine.add_event_handler(Events.ITERATION_COMPLETED(once=1), self)

    def __call__(self, engine: Engine) -> None:
        """Draw the case of the last iteration."""
        output = engine.state.output[0]
        image, label, pred = (torch.as_tensor(output[key]).float().cpu().numpy() for key in ("image", "label", "pred"))
        if len(image) == 3:  # a photograph, [3, H, W, 1]
            panel = picture_panel(image[..., 0], label[0, ..., 0], pred[0, ..., 0])
        else:
            panel = slice_panel(image[0], label[0], pred[0], self.slice_axis)
        with SummaryWriter(self.log_dir) as writer:
            writer.add_image("validation/image_label_prediction", panel, engine.state.epoch, dataformats="HWC")


class ImageLatentHandler:
    """Show the vision encoder's latents of a few training images, before the training and every ``interval`` epochs.

    Args:
        network: network in training.
        dataset: training set, items with ``image`` [3, H, W]; a few are shown, evenly spaced over the set.
        log_dir: TensorBoard folder.
        interval: number of epochs between two pictures.

    Source: figure 6 of the paper.
    """

    def __init__(self, network: SDSeg, dataset: Dataset, log_dir: str | Path, interval: int) -> None:
        self.network = network
        self.dataset = dataset
        self.log_dir = str(log_dir)
        self.interval = interval

    def attach(self, engine: Engine) -> None:
        """Attach to the trainer, after the handler that loads a checkpoint."""
        engine.add_event_handler(Events.STARTED, self)
        engine.add_event_handler(Events.EPOCH_COMPLETED(every=self.interval), self)

    def __call__(self, engine: Engine) -> None:
        """Draw the latents of the network's present weights."""
        device = next(self.network.parameters()).device
        length = len(self.dataset)  # type: ignore[arg-type]
        indices = [length * (2 * i + 1) // (2 * IMAGES_SHOWN) for i in range(IMAGES_SHOWN)]
        images = torch.stack([self.dataset[index]["image"] for index in indices])
        was_training = self.network.training
        self.network.eval()
        with torch.no_grad():
            latents = self.network.encode_image(images.to(device)).float().cpu()
        self.network.train(was_training)
        with SummaryWriter(self.log_dir) as writer:
            panel = latent_panel(images.numpy(), latents.numpy())
            writer.add_image("training/image_latent", panel, engine.state.iteration, dataformats="HWC")
