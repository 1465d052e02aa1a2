"""Conversion of a network's weights from one kind of file or folder to another."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from monai.inferers import Inferer

from sdseg_monai.bundle import Bundle, config_errors, read_part, read_path
from sdseg_monai.errors import InputError
from sdseg_monai.io.files import check_exists, check_new_folder
from sdseg_monai.networks import SDSeg
from sdseg_monai.weights.autoencoder import replace_mask_decoder
from sdseg_monai.weights.files import load_weights, mask_encoder_names, save_inference, save_network
from sdseg_monai.weights.official import OFFICIAL_HEADS, import_official
from sdseg_monai.weights.overlay import network_config, overlay_path, write_start_overlay

SOURCE_KINDS = ("official", "bundle", "diffusers")
TARGET_KINDS = ("bundle", "diffusers", "inference")


class Conversion(NamedTuple):
    """Result of :func:`convert`.

    Attributes:
        used: number of tensors of the source that were used.
        unused: number of tensors of the source that were not used.
        missing: number of tensors of the network that were not written.
        bytes: size of the output.
        network_def: the part of a bundle's configs that builds the network, because a state dict holds neither its
            sizes nor its noise schedule or options.
        overlay: file of what of it differs from the sdseg bundle's ``train.json``, see
            :func:`~sdseg_monai.weights.overlay.start_overlay`; None where none was written.
    """

    used: int
    unused: int
    missing: int
    bytes: int
    network_def: dict[str, Any]
    overlay: str | None


def convert(
    source: Path,
    output: Path,
    *,
    source_kind: str,
    target_kind: str,
    num_heads: int | None = None,
    raw: bool = False,
    mask_decoder: Path | None = None,
    trust: bool = False,
) -> Conversion:
    """Read ``source`` and write ``output``, completely or not at all.

    Beside the ``model.pt`` of an official checkpoint the overlay is written with which a training starts from it.

    Args:
        source: an official Lightning checkpoint, a bundle's folder, or a folder that :meth:`SDSeg.save_pretrained`
            wrote. The configs of a bundle are code.
        output: a new file ending in ``.pt`` (for ``bundle``, a bundle's ``models/model.pt``, and for ``inference``), or
            a new folder (for ``diffusers``).
        source_kind: ``official``, ``bundle`` or ``diffusers``.
        target_kind: ``bundle``, ``diffusers`` or ``inference``.
        num_heads: heads of an official U-Net's attention; None for 8.
        raw: take the raw weights of an official U-Net instead of the averaged ones.
        mask_decoder: file of a distilled mask decoder, see
            :func:`~sdseg_monai.weights.autoencoder.replace_mask_decoder`; None to keep the source's decoder.
        trust: run code of a bundle that does not come with this package, now and later.

    Raises:
        InputError: the source cannot be used, or has code that is not trusted; or the output cannot be written or
            exists.
    """
    for name, kind, kinds in (("source", source_kind, SOURCE_KINDS), ("target", target_kind, TARGET_KINDS)):
        if kind not in kinds:
            raise InputError(f"{kind!r} is no kind of {name}, expected {', '.join(kinds)}")
    if source_kind != "official" and (raw or num_heads is not None):
        raise InputError(f"the number of heads and raw weights are for official checkpoints, not for {source_kind}")
    _check_output(source, output, target_kind)
    with_overlay = (source_kind, target_kind) == ("official", "bundle")
    if with_overlay:
        _check_new(overlay_path(output))
    inferer = None
    if source_kind == "official":
        heads = OFFICIAL_HEADS if num_heads is None else num_heads
        official = import_official(source, num_heads=heads, use_ema=not raw)
        network, counts = official.network, official.report.counts()
    else:
        if source_kind == "bundle":
            network, inferer = load_bundle_network(source, trust)
        else:
            network = SDSeg.from_pretrained(source)
        counts = {"used": len(network.state_dict()), "unused": 0, "missing": 0}
    if mask_decoder is not None:
        num_old_tensors = replace_mask_decoder(network, mask_decoder)
        counts["used"] -= num_old_tensors
        counts["unused"] += num_old_tensors
    mask_encoder = mask_encoder_names(network.state_dict())
    if target_kind == "inference":
        counts["missing"] += len(mask_encoder)
    elif not mask_encoder:
        raise InputError(f"{source}: holds an inference export without the mask encoder, expected the full weights")
    if target_kind == "diffusers":
        network.save_pretrained(output)
    else:
        (save_inference if target_kind == "inference" else save_network)(network, output, inferer)
    overlay = str(write_start_overlay(network, output)) if with_overlay else None
    return Conversion(**counts, bytes=_size(output), network_def=network_config(network), overlay=overlay)


def load_bundle_network(root: Path, trust: bool = False) -> tuple[SDSeg, Inferer | None]:
    """Return the network of a bundle's ``configs/inference.json`` with its weights, and the config's inferer, if any.

    Args:
        root: folder of the bundle.
        trust: run code of it that does not come with this package, now and later.

    Raises:
        InputError: there is no such bundle, its weights are missing or not those of its network, or it has code that is
            not trusted.
    """
    bundle = Bundle.open(root, trust)
    config = bundle.config_file("inference")
    with config_errors(config):
        parser = bundle.config("inference")
    network = read_part(parser, config, "network_def", SDSeg)
    inferer = read_part(parser, config, "inferer", Inferer) if "inferer" in parser else None
    load_weights(network, read_path(parser, config, "checkpoint"), inferer)
    return network.eval(), inferer


def _check_output(source: Path, output: Path, target_kind: str) -> None:
    check_exists(source)
    if target_kind == "diffusers":
        check_new_folder(output)
    elif output.suffix != ".pt":
        raise InputError(f"{output}: expected the name of a file ending in .pt")
    else:
        _check_new(output)


def _check_new(file: Path) -> None:
    if file.exists():
        raise InputError(f"{file}: exists, expected the name of a new file")


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())
