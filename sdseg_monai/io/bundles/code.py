"""What of a MONAI config is code, found without running it: expressions, references, classes and their arguments."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from sdseg_monai.io.bundles.texts import read_text

MARKS = ("$", "@", "%")  # how an expression, a reference and a macro begin
SEPARATOR = re.compile(r"#|::")  # in a key that is a path, such as network_def#unet
TARGET = "_target_"  # the key of a class
NESTED = "transforms"
HARMLESS_KEYS = (TARGET, "_disabled_", "_desc_", "_meta_")  # of the keys to which MONAI gives a meaning
OWN_CLASSES = "sdseg_monai."  # their arguments are data: none of them runs a text or takes a callable by its name
# A path as configs write one. Nothing else may be in it: MONAI puts keys of the config in place of "%#", and takes an
# "@" within a text for a reference to the whole config.
PATH = re.compile(r"@\w+|\$@\w+(?: \+ '[\w ./-]*')*")


class Code(NamedTuple):
    """A piece of a config that MONAI does not take as it is.

    Attributes:
        place: the path of keys under which it stands, such as ``network_def#unet``; a list's items have its path. Code
            is known only in its place: elsewhere it would be evaluated at another time, or be given other things.
        key: ``_target_`` for the address of a class, the name of an argument, or empty for the value itself.
        text: the value, or the address of the class; empty for an argument.
    """

    place: str
    key: str
    text: str

    def __str__(self) -> str:
        """Return it for a message: ``device: $torch.device('cpu')``."""
        return f"{self.place}: {' '.join(filter(None, (self.key, self.text)))}"


def find_code(config: Mapping[str, Any]) -> set[Code]:
    """Return what of a config, with its overlays merged into it, is code to MONAI.

    A path, such as ``$@bundle_root + '/models/model.pt'``, whose references are texts, is none.
    """
    return {code for code in _walk(config, "") if not _is_path(code, config)}


def known_code(config: Mapping[str, Any]) -> set[Code]:
    """Return all code in a config or an overlay that is trusted, the names of all arguments included.

    Args:
        config: as in its file, where a key may be a path: ``{"network_def#unet#num_heads": 8}``.
    """
    entries = []
    for path, value in config.items():
        node = value
        for key in reversed([key for key in SEPARATOR.split(path.removeprefix("+")) if not key.isdecimal()]):
            node = {key: node}
        entries.append(node)
    return set(_walk(entries, "", all_arguments=True))


def _walk(node: object, place: str, all_arguments: bool = False) -> Iterator[Code]:
    if isinstance(node, str):
        if node.startswith(MARKS):
            yield Code(place, "", node)
    elif isinstance(node, list):
        for item in node:
            yield from _walk(item, place, all_arguments)
    elif isinstance(node, dict):  # MONAI goes into no other containers
        target = node.get(TARGET)
        has_arguments = all_arguments or (target is not None and not str(target).startswith(OWN_CLASSES))
        for key, value in node.items():
            name = str(key)  # YAML has other keys too
            if name == TARGET:
                yield Code(place, TARGET, str(value))
                continue
            is_special = (name[:1] == name[-1:] == "_" and name not in HARMLESS_KEYS) or SEPARATOR.search(name)
            if has_arguments or is_special:
                yield Code(place, name, "")
            yield from _walk(value, _place_within(place, name), all_arguments)


def _place_within(place: str, name: str) -> str:
    if name == NESTED and place.endswith(f"#{NESTED}"):  # a Compose in a Compose does what its steps would do there
        return place
    return f"{place}#{name}" if place else name


def _is_path(code: Code, config: Mapping[str, Any]) -> bool:
    if code.key or not PATH.fullmatch(code.text):
        return False
    try:
        return read_text({**config, "": code.text}, "") is not None
    except (KeyError, TypeError):  # a reference that is missing, that refers to itself, or is no text
        return False
