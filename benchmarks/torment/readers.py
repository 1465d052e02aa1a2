"""Each kind of file is read as the command and the label server read it, and the result is checked.

A reader returns a text that stands for the result: equal results have equal texts.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from sdseg_monai.bundle import Bundle, bundles_dir
from sdseg_monai.data import read_datalist
from sdseg_monai.inference.manifest import Manifest
from sdseg_monai.io.dicom import choose_series, is_whole_seg, read_series
from sdseg_monai.io.label_maps import read_mask
from sdseg_monai.io.pictures import read_picture
from sdseg_monai.io.sources import list_sources, load_source
from sdseg_monai.io.volumes import Volume, check_same_grid, read_volume, write_volume
from sdseg_monai.weights import load_weights, read_checkpoint
from torment.examples import BUNDLE, make_network


class WrongResult(Exception):
    """A file was read, and what was read cannot be right."""


def _digest(*arrays: np.ndarray) -> str:
    return hashlib.sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)).hexdigest()


def _check_array(array: np.ndarray) -> None:
    if not (array.size and np.isfinite(array).all()):
        raise WrongResult(f"voxels of shape {array.shape} that are not all finite")


def _check_volume(volume: Volume) -> str:
    _check_array(volume.array)
    _check_array(volume.affine)
    if volume.array.ndim != 3:
        raise WrongResult(f"a volume of shape {volume.array.shape}")
    return _digest(volume.array, volume.affine)


def read_volume_file(path: Path) -> str:
    """Read a volume, and write a mask on its grid that reads back on the same grid."""
    volume = read_volume(path)
    text = _check_volume(volume)
    mask = path.with_name(f"written_{path.name}")
    write_volume(mask, np.ones(volume.array.shape, np.uint8), path)
    written = read_volume(mask)
    if not (written.array == 1).all():
        raise WrongResult(f"a mask of ones became {np.unique(written.array)[:5]}")
    check_same_grid(path, volume, mask, written)
    mask.unlink()
    return text


def read_series_file(path: Path) -> str:
    """Read the series of which ``path`` is a slice; a slice that was left out must be named."""
    series = choose_series(path.parent)
    text = _check_volume(read_series(series))
    if len(series.files) < len(list(path.parent.iterdir())) and not series.warnings:
        raise WrongResult(f"{len(series.files)} slices of {len(list(path.parent.iterdir()))} files, without a warning")
    return text


def read_seg_file(path: Path) -> str:
    """Tell whether a SEG is whole, as ``--resume`` does."""
    return str(is_whole_seg(path))


def read_picture_file(path: Path) -> str:
    """Read a photograph."""
    array = read_picture(path)
    _check_array(array)
    if array.ndim != 3 or array.shape[0] != 3 or array.min() < 0 or array.max() > 255:
        raise WrongResult(f"a picture of shape {array.shape} from {array.min()} to {array.max()}")
    return _digest(array)


def read_picture_mask_file(path: Path) -> str:
    """Read a mask in black and white."""
    array = read_mask(path).array
    if not np.isin(array, (0, 1)).all():
        raise WrongResult(f"a mask with {np.unique(array)[:5]}")
    return _digest(array)


def read_list_file(path: Path) -> str:
    """Read a datalist as ``sdseg segment`` does, and one of JSON also as a training does."""
    sources = list_sources(path, split="test" if path.suffix == ".json" else None)
    for source in sources:
        load_source(source)
    names = [str(source) for source in sources]
    if path.suffix == ".json":
        items = read_datalist(path, "training", path.parent, "")
        names += [item[key] for item in items for key in ("image", "label")]
    outside = [name for name in names if not Path(name).is_file()]
    if outside:
        raise WrongResult(f"{outside[0]} is no file")
    return " ".join(names)


def read_manifest_file(path: Path) -> str:
    """Resume from a manifest whose masks are all missing: nothing of it may count as done."""
    manifest = Manifest.resume(path, {}, {"seed": 0})
    done = [image for image in sorted(path.parent.glob("*.nii.gz")) if manifest.is_done(image, [image])]
    if done:
        raise WrongResult(f"{done[0].name} counts as done, though its hash is another")
    manifest.record(path, status="done", seconds=1.0, warnings=[])
    return str(len(json.loads(path.read_text())["cases"]))


def describe_bundle_file(path: Path) -> str:
    """Describe the bundle of a config, as ``sdseg info`` does."""
    return _describe(path.parent.parent)


def describe_zip_file(path: Path) -> str:
    """Describe a bundle in a zip file."""
    return _describe(path)


def _describe(root: Path) -> str:
    bundle = Bundle.open(root)
    if not all(value > 0 for value in bundle.segments):
        raise WrongResult(f"segments {list(bundle.segments)}")
    description: dict[str, Any] = {**bundle.describe(), "folder": ""}
    description["weights"] = None
    return json.dumps(description, sort_keys=True)


def chain_overlay_file(path: Path) -> str:
    """Chain an overlay after a shipped bundle's config; nothing of it is instantiated."""
    config = Bundle(bundles_dir() / BUNDLE).config("inference", [path])
    return repr(config["size"])


def load_weights_file(path: Path) -> str:
    """Load weights into a network."""
    network = make_network()
    load_weights(network, path)
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise WrongResult(f"{name} is not finite")
    return _digest(*(tensor.numpy() for tensor in network.state_dict().values()))


def read_checkpoint_file(path: Path) -> str:
    """Read the checkpoint of another project, as ``sdseg convert`` does."""
    return _digest(*(tensor.numpy() for tensor in read_checkpoint(path).values()))


READERS: dict[str, Callable[[Path], str]] = {
    "NIfTI": read_volume_file,
    "NIfTI, gzip": read_volume_file,
    "NRRD": read_volume_file,
    "NRRD, gzip": read_volume_file,
    "MHA": read_volume_file,
    "MHA, zlib": read_volume_file,
    "DICOM": read_series_file,
    "DICOM SEG": read_seg_file,
    "PNG": read_picture_file,
    "JPEG": read_picture_file,
    "TIFF": read_picture_file,
    "BMP": read_picture_file,
    "PNG mask": read_picture_mask_file,
    "datalist, JSON": read_list_file,
    "datalist, CSV": read_list_file,
    "manifest": read_manifest_file,
    "bundle metadata": describe_bundle_file,
    "bundle config": describe_bundle_file,
    "overlay, JSON": chain_overlay_file,
    "overlay, YAML": chain_overlay_file,
    "weights, torch": load_weights_file,
    "weights, torch before 1.6": read_checkpoint_file,
    "weights, safetensors": read_checkpoint_file,
    "bundle, zip": describe_zip_file,
}
