"""Fixtures: a report of given cases, opened in a real browser."""

import json

import pytest

from tests.makers.browser import start_chromium
from tests.report.cases import report_text
from tests.report.viewer import Page


@pytest.fixture(scope="module")
def driver():
    driver = start_chromium()
    yield driver
    driver.quit()


@pytest.fixture
def show(driver, tmp_path):
    """Write a report and open it; at the end nothing has failed in the page and nothing was asked of a network."""

    def open_page(cases, **options):
        report_text(tmp_path, cases, **options)
        return Page(driver, tmp_path / "report.html")

    driver.get("about:blank")
    for log in ("browser", "performance"):
        driver.get_log(log)
    yield open_page
    messages = [entry["message"] for entry in driver.get_log("browser")]
    assert not messages
    entries = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    urls = [event["params"]["request"]["url"] for event in entries if event["method"] == "Network.requestWillBeSent"]
    assert [url for url in urls if not url.startswith(("data:", (tmp_path / "report.html").as_uri(), "about:"))] == []
