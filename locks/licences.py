"""Write docs/licences.md: the licence of every package in the lock files, as its metadata state it: make licences."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "licences.md"
ENVIRONMENTS = {"demo": ".venv", "test": ".venv", "label-env": ".venv-label"}  # of each lock file
TORCH = "torch"  # in no lock file, see lock.py
LONGEST = 60  # characters of a licence's name; longer ones are its text
OSI = "License :: OSI Approved :: "
HEADER = """\
# Licences of the dependencies

The packages that this project installs, with their licences as the packages' own metadata state them; nobody has
checked these statements. They are not part of this repository. The last column says which commands install a package:
`make demo` needs the fewest. `make licences` wrote this page from the [lock files](development.md#lock-files).

| package | version | licence | home page | installed by |
| --- | --- | --- | --- | --- |
"""
PROGRAM = """
import json
from importlib.metadata import distributions
keys = ("Name", "Version", "License", "License-Expression", "Classifier", "Home-page", "Project-URL")
print(json.dumps([{key: d.metadata.get_all(key) or [] for key in keys} for d in distributions()]))
"""
Metadata = dict[str, list[str]]  # the values of each key


def locked_versions(target: str) -> dict[str, str]:
    """Return the packages of a lock file: versions by names in lower case with hyphens."""
    lines = (ROOT / "locks" / f"{target}.txt").read_text().splitlines()
    return dict(line.split()[0].split("==") for line in lines if not line.startswith("#"))


def installed(environment: str) -> dict[str, Metadata]:
    """Return the metadata of what is installed in an environment, by names as :func:`locked_versions` has them."""
    python = ROOT / environment / "bin" / "python"
    if not python.is_file():
        raise SystemExit(f"there is no {python}: make test and make label-env make it")
    output = subprocess.run([python, "-c", PROGRAM], capture_output=True, text=True, check=True).stdout
    return {re.sub(r"[-_.]+", "-", metadata["Name"][0]).lower(): metadata for metadata in json.loads(output)}


def licence(metadata: Metadata) -> str:
    """Return the name of a package's licence: its SPDX expression, else its classifiers, else the first short line."""
    if metadata["License-Expression"]:
        return metadata["License-Expression"][0]
    classifiers = [text.removeprefix(OSI) for text in metadata["Classifier"] if text.startswith(OSI)]
    if classifiers:
        return ", ".join(classifiers)
    texts = [text.strip().splitlines()[0] for text in metadata["License"] if text.strip()]
    return texts[0] if texts and len(texts[0]) <= LONGEST else "see its files"


def home_page(metadata: Metadata) -> str:
    """Return a package's home page, or the first address that it names; empty where there is none."""
    addresses = dict(text.split(", ", 1)[::-1] for text in metadata["Project-URL"])
    preferred = [
        url for url, label in addresses.items() if label.lower() in ("homepage", "home", "source", "repository")
    ]
    pages = [text for text in metadata["Home-page"] if text.startswith("http")]
    return next(iter([*pages, *preferred, *addresses]), "")


def rows() -> Iterator[list[str]]:
    """Yield the cells of each package, sorted by name; packages of two versions have two rows."""
    targets: dict[tuple[str, str], list[str]] = {}
    metadata: dict[tuple[str, str], Metadata] = {}
    environments: Mapping[str, dict[str, Metadata]] = {name: installed(name) for name in set(ENVIRONMENTS.values())}
    for target, environment in ENVIRONMENTS.items():
        found = environments[environment]
        versions = locked_versions(target)
        torch_version = found[TORCH]["Version"][0].partition("+")[0]
        for name, version in {**versions, TORCH: torch_version}.items():
            if name not in found or found[name]["Version"][0].partition("+")[0] != version:
                raise SystemExit(f"{name} {version} is not installed in {environment}: remove it and make it anew")
            targets.setdefault((name, version), []).append(target)
            metadata[name, version] = found[name]
    for (name, version), names in sorted(targets.items()):
        about = metadata[name, version]
        page = home_page(about)
        link = f"<{page}>" if page else ""
        yield [name, version, licence(about), link, ", ".join(f"`make {target}`" for target in names)]


def main() -> None:
    """Write the page."""
    table = "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |\n" for row in rows())
    PAGE.write_text(HEADER + table)


if __name__ == "__main__":
    main()
