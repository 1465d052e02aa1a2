"""Small files in place of those that the reader of a page has."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from monai.bundle import ConfigParser

from sdseg_monai.demo.phantom import make_phantom
from tests.makers.volumes import write_nifti

SPLITS = {"training": [f"case_{n}" for n in (2, 3, 4, 5)], "validation": ["case_6"], "test": ["case_0", "case_1"]}
CASES = [f"case_{number}" for number in range(7)]  # so many that some are kept for a test
CROP = (slice(4, 30), slice(18, 42), slice(11, 22))  # of the phantom: small, a slab, with both classes


def write_volumes(folder: Path, names: list[str]) -> None:
    """Write small phantoms to ``folder``/images and ``folder``/labels."""
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True)
    for name in names:
        image, label = make_phantom(seed=int(name[-1]))
        for kind, array in (("images", np.rint(image.clip(0)).astype(np.uint16)), ("labels", label)):
            write_nifti(folder / kind / f"{name}.nii.gz", array[CROP])


def write_weights(path: Path, bundle: Path, *overlays: Path) -> None:
    """Write random weights for the network of a bundle's inference."""
    parser = ConfigParser()
    parser.read_config([bundle / "configs" / "inference.json", *overlays])
    parser["bundle_root"] = str(bundle)
    torch.manual_seed(0)
    network = parser.get_parsed_content("network_def")
    network.scale_factor.fill_(0.1)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(network.state_dict(), path)


def write_datalist(path: Path, image: str, label: str) -> None:
    """Write a datalist of :data:`SPLITS`; ``image`` and ``label`` are paths with a ``{}`` for the case."""
    items = {k: [{"image": image.format(c), "label": label.format(c)} for c in v] for k, v in SPLITS.items()}
    path.write_text(json.dumps(items))
