"""Small photographs with masks."""

from pathlib import Path

import numpy as np
from PIL import Image


def write_photograph(folder: Path, name: str, seed=0, size=(40, 56), suffix=".png") -> None:
    """Write a photograph of a bright disc to ``folder``/images and where it is, as 0 and 255, to ``folder``/masks."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[: size[0], : size[1]]
    middle = np.array(size) / 2 + rng.uniform(-5, 5, 2)
    disc = np.hypot(rows - middle[0], columns - middle[1]) < 12
    photograph = rng.normal(60, 15, (*size, 3)) + 120 * disc[..., None]
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    Image.fromarray(photograph.clip(0, 255).astype(np.uint8)).save(folder / "images" / f"{name}{suffix}", quality=95)
    Image.fromarray(255 * disc.astype(np.uint8)).save(folder / "masks" / f"{name}.png")
