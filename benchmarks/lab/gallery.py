"""Pictures of a bundle's masks beside the labels: a usual case and the worst ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np

from lab.bundles import mask_path
from sdseg_monai.io.label_maps import read_mask
from sdseg_monai.io.pictures import image_stem, is_picture, read_picture, read_picture_mask
from sdseg_monai.io.volumes import read_volume
from sdseg_monai.visualize import picture_panel, slice_panel

matplotlib.use("Agg")
from matplotlib import pyplot as plt

WORST = 3


def draw_usual_and_worst(
    items: Sequence[dict[str, str]], dice: Sequence[float], masks: Path, usual: Path, worst: Path
) -> None:
    """Draw the case of median Dice without a title, and the cases of the lowest Dice, each with its own.

    Args:
        items: the cases, each with ``image`` and ``label``.
        dice: of each case.
        masks: folder of the masks, see :func:`~lab.bundles.mask_path`.
        usual: file of the first picture.
        worst: file of the second one.
    """
    order = np.argsort(dice, kind="stable")
    for path in (usual, worst):
        path.parent.mkdir(exist_ok=True)
    plt.imsave(usual, panel(items[order[len(order) // 2]], masks))
    figure, axes = plt.subplots(WORST, squeeze=False, figsize=(7, 2.5 * WORST))
    for axis, index in zip(axes[:, 0], order[:WORST], strict=True):
        axis.imshow(panel(items[index], masks))
        name = image_stem(Path(items[index]["image"]))
        axis.set(title=f"{name}: Dice {100 * dice[index]:.1f} %", xticks=[], yticks=[])
    figure.savefig(worst, dpi=100, bbox_inches="tight")
    plt.close(figure)


def panel(item: dict[str, str], masks: Path) -> np.ndarray:
    """Return image, label and mask side by side, [H, W, 3] in [0, 1]; of a volume the slice with most of the label.

    Slices are those across the last axis of the file.
    """
    image, label, mask = Path(item["image"]), Path(item["label"]), mask_path(item, masks)
    if is_picture(image):
        return picture_panel(read_picture(image) / 127.5 - 1, read_picture_mask(label), read_picture_mask(mask))
    return slice_panel(read_volume(image).array, read_mask(label).array, read_mask(mask).array, slice_axis=2)
