"""Bundles as files: where they are, what they say of themselves, and their configs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser

from sdseg_monai.errors import InputError, find_input_error, root_cause
from sdseg_monai.io.archives import unpack_bundle
from sdseg_monai.io.files import hash_file
from sdseg_monai.io.segments import read_modality, read_segments

DEFAULT_BUNDLE = "hippocampus_sdseg"
METADATA = Path("configs", "metadata.json")  # in a bundle's folder


def bundles_dir() -> Path:
    """Return the folder of the shipped bundles: inside the installed package, or beside it in a clone."""
    package = Path(__file__).parent
    installed = package / "bundles"
    return installed if installed.is_dir() else package.parent / "bundles"


def shipped_bundles() -> list[str]:
    """Return the names of the bundles that come with the package, with weights or without."""
    return sorted(p.name for p in bundles_dir().iterdir() if (p / "configs").is_dir())


def find_bundle(name_or_dir: str | Path) -> Path:
    """Return a bundle's folder, given that, a zip file of it or the name of a shipped bundle.

    Raises:
        InputError: there is none of these, or it has no ``configs/inference.json``.
    """
    shipped = bundles_dir() / name_or_dir
    is_name = str(name_or_dir) in shipped_bundles()  # a folder of that name is called ./NAME
    root = shipped if is_name and shipped.is_dir() else Path(name_or_dir)
    if not str(name_or_dir):  # a shell variable that is not set
        raise InputError("a bundle without a name, expected a name, a folder or a zip")
    if root.is_file() and root.suffix.lower() == ".zip":
        root = unpack_bundle(root)
    if not root.is_dir():
        names = ", ".join(shipped_bundles())
        raise InputError(
            f"{name_or_dir}: no bundle of that name and no such folder, expected {names}, a folder or a zip"
        )
    if not (root / "configs" / "inference.json").is_file():
        raise InputError(f"{root}: no configs/inference.json there, expected a bundle's folder")
    return root


def bundle_weights(root: Path) -> Path | None:
    """Return the file of the weights of the bundle in ``root``, None where it has none.

    Raises:
        InputError: its config does not say.
    """
    config = root / "configs" / "inference.json"
    with config_errors(config):
        weights = Path(read_config(config, root).get_parsed_content("checkpoint"))
    return weights if weights.is_file() else None


@contextmanager
def bundle_metadata(root: Path) -> Iterator[dict[str, Any]]:
    """Read the metadata of the bundle in ``root``; what they lack while they are used is an :class:`InputError`."""
    path = root / METADATA
    with config_errors(path):
        yield json.loads(path.read_text())


def describe_bundle(name_or_dir: str | Path) -> dict[str, Any]:
    """Return what a bundle says of itself: what it segments in what, its weights (None without), whose it is.

    Raises:
        InputError: there is no such bundle, or its metadata or config do not say.
    """
    root = find_bundle(name_or_dir)
    with bundle_metadata(root) as metadata:
        segments = read_segments(metadata)
        description = {name: metadata[name] for name in ("version", "task", "intended_use", "copyright", "data_source")}
        modality = read_modality(metadata)
    weights = bundle_weights(root)
    return {
        "folder": str(root),
        **description,
        "modality": modality,
        "labels": {segment.name: value for value, segment in segments.items()},
        "weights": None if weights is None else {"file": str(weights), "sha256": hash_file(weights)},
    }


def read_config(config: Path, root: Path, overlays: Sequence[Path] = ()) -> ConfigParser:
    """Return the parsed ``config`` of the bundle in ``root``, with ``overlays`` chained after it, later ones winning.

    Raises:
        InputError: an overlay is missing or no config, or changes what the configs before it do not have.
    """
    parser = ConfigParser()
    parser.read_config(config)
    chain = [config]
    for overlay in overlays:
        if not overlay.is_file():
            raise InputError(f"{overlay}: no such file, expected an overlay for {config}")
        chain.append(overlay)
        try:
            parser.read_config(chain)
        except Exception as error:  # as many as there are ways to spoil JSON or YAML
            raise InputError(f"{overlay}: cannot be chained after {config} ({error!r}), expected an overlay") from error
    parser["bundle_root"] = literal_path(root)
    return parser


def literal_path(path: Path) -> str:
    """Return ``path`` as a config's value: MONAI would evaluate the name of a folder that begins with ``$``."""
    return f"./{path}" if str(path)[0] in "$@%" else str(path)


@contextmanager
def config_errors(config: Path) -> Iterator[None]:
    """Turn what a bundle's config raises while it is used into an :class:`InputError` that names it."""
    try:
        yield
    except Exception as error:  # a config is a program: it fails in as many ways
        input_error = find_input_error(error)
        if input_error is not None:
            raise input_error from error
        raise InputError(f"{config}: cannot be used ({root_cause(error)!r}), expected a bundle of this kind") from error


def checked_device(name: str) -> torch.device:
    """Return the device of that name, on which a tensor could be made.

    Raises:
        InputError: it cannot be used here.
    """
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, ValueError, NotImplementedError, ImportError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"device {name!r} cannot be used ({reason}), expected cpu, or cuda where there is some"
        ) from error
    return device
