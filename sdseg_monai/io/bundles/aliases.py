"""YAML's aliases (``*name``), with which a few lines can stand for more than any memory holds."""

from __future__ import annotations

from pathlib import Path

from sdseg_monai.errors import InputError

YAML_SUFFIXES = (".yaml", ".yml")


def refuse_aliases(config: Path) -> None:
    """Refuse a YAML config that has an alias; nothing is built of it yet. A config in JSON has none.

    MONAI walks through all that the aliases stand for, so nine lines of nine aliases each would never end. MONAI's own
    references, such as ``@network_def``, do the same without that danger.

    Raises:
        InputError: there is an alias.
        yaml.YAMLError, UnicodeDecodeError: the file is not YAML.
    """
    if not config.name.lower().endswith(YAML_SUFFIXES):  # as MONAI chooses the parser; of ".yaml" pathlib has no suffix
        return
    import yaml

    with config.open() as stream:
        for token in yaml.scan(stream, yaml.SafeLoader):
            if isinstance(token, yaml.AliasToken):
                raise InputError(
                    f"{config}: has the alias *{token.value} in line {token.start_mark.line + 1}, expected YAML "
                    "without aliases: write the value out"
                )
