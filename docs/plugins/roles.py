"""Docstrings name other objects as Sphinx does; the site shows these as code, linked where the site has them."""

from __future__ import annotations

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:class|func|meth|attr|mod|data):`(~?)([\w.]+)`")


class Roles(griffe.Extension):
    """Replaces the roles in docstrings."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Replace those of one object."""
        if obj.docstring is not None:
            obj.docstring.value = ROLE.sub(lambda role: _link(obj, role), obj.docstring.value)


def _link(obj: griffe.Object, role: re.Match[str]) -> str:
    name = role[2]
    if not name.startswith("sdseg_monai."):
        try:
            name = obj.resolve(name)
        except griffe.NameResolutionError:
            name = f"{obj.path}.{name}"
    shown = role[2].rpartition(".")[2] if role[1] else role[2]
    return f'<autoref optional identifier="{name}"><code>{shown}</code></autoref>'
