"""Pages link to files as the repository has them; the site holds those outside ``docs`` under the same names."""

from __future__ import annotations

import re
from pathlib import Path
from posixpath import dirname, normpath, relpath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
OUTSIDE = ("bundles/*/docs/*.*", "bundles/*/docs/images/*", "bundles/*/configs/**/*.json", "LICENSE")
INSTEAD = {"README.md": "docs/index.md"}  # of the repository's first page
LINK = re.compile(r"(?<=\]\()(?!#|[a-z]+:)([^)#\s]+)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the bundles' pages, configs and licences."""
    for path in sorted(path for pattern in OUTSIDE for path in ROOT.glob(pattern)):
        files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links between files of the repository into links between files of the site."""
    name = page.file.src_uri
    there = name if name.startswith("bundles/") else f"docs/{name}"

    def move(link: re.Match[str]) -> str:
        target = normpath(f"{dirname(there)}/{link[1]}")
        return relpath(INSTEAD.get(target, target).removeprefix("docs/"), dirname(name) or ".")

    return LINK.sub(move, markdown)
