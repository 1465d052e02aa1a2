"""Models of diffusers from a folder or the hub, whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sdseg_monai.errors import InputError
from sdseg_monai.weights.torch_files import reason
from sdseg_monai.weights.transfer import to_float32


def find_pretrained(kind: Any, source: str, subfolder: str) -> Any:
    """Return the model of diffusers' class ``kind`` at ``source`` in float32, alone or under ``subfolder``.

    Args:
        kind: a diffusers model class.
        source: folder, from which nothing leads to the network, or hub id.
        subfolder: where a pipeline has the model.

    Raises:
        InputError: there is none, or its file lacks tensors of it, has others, or has values that are not finite.
    """
    is_local = Path(source).is_dir()
    folders = [subfolder, None]
    if is_local:
        folders = [subfolder if Path(source, subfolder).is_dir() else None]
    failure: Exception = ValueError(source)
    for folder in folders:
        try:
            model, info = kind.from_pretrained(
                source, subfolder=folder, output_loading_info=True, local_files_only=is_local
            )
        except Exception as error:  # a damaged file fails in as many ways as it has readers
            failure = error
        else:
            _check_whole(source, model, info)
            return model.float()
    what = "autoencoder" if subfolder == "vae" else "U-Net"
    raise InputError(
        f"{source}: no {what} there ({reason(failure)}), expected a file, a diffusers folder or a hub id that can be "
        "reached"
    ) from failure


def _check_whole(source: str, model: Any, info: dict[str, Any]) -> None:
    for key in ("missing_keys", "unexpected_keys", "mismatched_keys"):  # diffusers would only log them
        if info[key]:
            name = min(map(str, info[key]))
            raise InputError(f"{source}: {key.replace('_', ' ')}: {name}, expected the tensors of its config.json")
    try:
        for name, tensor in model.state_dict().items():
            to_float32(name, tensor)
    except InputError as error:
        raise InputError(f"{source}: {error}") from error
