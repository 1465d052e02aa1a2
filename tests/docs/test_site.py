"""Links have targets; the site shows the same as the repository and sends no request to a network.

``SDSEG_PICTURES=docs/images`` saves the picture of the report.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from markdown_it import MarkdownIt
from mkdocs.commands.build import build
from mkdocs.config import load_config
from PIL import Image
from selenium.webdriver.support.ui import WebDriverWait

from sdseg_monai.bundle import bundles_dir
from sdseg_monai.cli import main
from tests.docs.pages import NAMES, tokens
from tests.makers.browser import needs_browser, start_chromium
from tests.makers.places import ROOT

SEARCH = "return document.querySelector('.md-search-result__list')?.innerText ?? ''"


def slug(heading: str) -> str:
    """Return the anchor of a heading, as the repository's pages have it."""
    text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


def links(name: str) -> Iterator[str]:
    for token in tokens((ROOT / name).read_text()):
        for child in token.children or ():
            yield from (child.attrs[key] for key in ("href", "src") if key in child.attrs)


@pytest.mark.parametrize("name", NAMES)
def test_links_and_pictures_are_there(name):
    here = ROOT / name
    for link in links(name):
        address = urlsplit(link)
        if address.scheme:
            assert address.scheme in ("http", "https") and address.netloc, link
            continue
        target = (here.parent / address.path).resolve() if address.path else here
        assert target.exists() and target.is_relative_to(ROOT), link
        if address.fragment:
            headings = re.findall(r"^#+ (.+)$", target.read_text(), flags=re.MULTILINE)
            assert address.fragment in map(slug, headings), link


TAGS = ("pre", "li", "table", "tr", "img", "h1", "h2", "h3")


class Structure(HTMLParser):
    """Counts the parts of a page, within its article where it has one."""

    def __init__(self, html: str, within: str | None = None) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()
        self.hosts: set[str] = set()
        self.within, self.inside = within, within is None
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.inside = self.inside or tag == self.within
        if self.inside and tag in TAGS:
            self.count[tag] += 1
        attributes = dict(attrs)
        for key in ("src", "href") if tag != "a" else ():
            self.hosts.add(urlsplit(attributes.get(key) or "").netloc)

    def handle_endtag(self, tag: str) -> None:
        self.inside = self.inside and tag != self.within


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The site, built strictly."""
    folder = tmp_path_factory.mktemp("site")
    config = load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder), strict=True)
    config.plugins.on_startup(command="build", dirty=False)
    build(config)
    return folder


def page_of(site: Path, name: str) -> Path:
    path = Path(name.removeprefix("docs/"))
    return site / (path.with_name("index.html") if path.name == "README.md" else path.with_suffix(".html"))


@pytest.mark.parametrize("name", [name for name in NAMES if name != "README.md"])
def test_the_site_shows_what_the_repository_shows(site, name):
    html = page_of(site, name).read_text()
    counts = Structure(html, "article").count
    expected = Structure(MarkdownIt("commonmark").enable("table").render((ROOT / name).read_text())).count
    if name == "docs/api.md":  # and the docstrings
        assert counts["pre"] > expected["pre"] and "doc-signature" in html
        assert not re.search(r":(class|func|meth|data|attr):", html), "a role that nothing replaced"
        return
    assert counts == expected


def test_the_site_asks_nothing_of_any_network(site):
    for path in site.rglob("*.html"):
        assert Structure(path.read_text()).hosts <= {""}, path


@needs_browser
def test_the_site_is_searched_without_a_network(site):
    """From the folder itself, as on a machine without a server."""
    driver = start_chromium()
    try:
        driver.get((site / "index.html").as_uri() + "?q=abstain")
        wait = WebDriverWait(driver, 30, 0.2)
        wait.until(lambda d: "Segment my data" in d.execute_script(SEARCH), "the page that search should find")
        messages = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
        urls = [
            event["params"]["request"]["url"] for event in messages if event["method"] == "Network.requestWillBeSent"
        ]
        assert {urlsplit(url).scheme for url in urls} <= {"file", "data", "blob", "about"}, urls
    finally:
        driver.quit()


@needs_browser
@pytest.mark.shared
@pytest.mark.slow
def test_the_picture_of_the_report(hippocampus, tmp_path):
    """An evaluation of one test case, as the picture of README.md shows it."""
    item = json.loads((bundles_dir() / "hippocampus_sdseg" / "configs" / "datalist.json").read_text())["test"][0]
    for kind in ("image", "label"):
        (tmp_path / f"{kind}s").mkdir()
        shutil.copy(hippocampus / item[kind], tmp_path / f"{kind}s")
    folders = {name: str(tmp_path / name) for name in ("images", "labels", "masks")}
    report = tmp_path / "report.html"
    command = ["evaluate", "--predictions", folders["masks"], "--labels", folders["labels"], "-q"]
    with contextlib.redirect_stdout(io.StringIO()):
        assert main(["segment", folders["images"], "-o", folders["masks"], "-q", "--device", "cpu"]) == 0
        command += ["-o", str(tmp_path / "metrics.csv"), "--report", str(report), "--images", folders["images"]]
        assert main(command) == 0
    driver = start_chromium()
    try:
        window = {"width": 1150, "height": 715, "deviceScaleFactor": 1, "mobile": False}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", window)
        driver.get(report.as_uri())
        driver.execute_script("""
            document.documentElement.style.scrollBehavior = 'auto';
            document.querySelector('.viewer').closest('section').scrollIntoView()
        """)
        live = "return document.querySelector('.viewer').className.includes('live')"
        WebDriverWait(driver, 30, 0.1).until(lambda d: d.execute_script(live))
        screenshot = Image.open(io.BytesIO(driver.get_screenshot_as_png())).convert("RGB")
        colours = np.asarray(screenshot).reshape(-1, 3).astype(int)
        for orange_or_blue in ((230, 159, 0), (0, 114, 178)):
            assert (np.abs(colours - orange_or_blue).sum(1) < 150).sum() > 2000, "a class that is not drawn"
        if folder := os.environ.get("SDSEG_PICTURES"):
            small = screenshot.quantize(256, dither=Image.Dither.NONE)
            small.save(ROOT / folder / "report.png", optimize=True)
    finally:
        driver.quit()
