"""The whole page in a real browser: hostile names, no network, its lists, narrow windows, contrast and printing."""

import math
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from selenium.webdriver.common.by import By

from sdseg_monai.evaluation import METRICS, compare_masks, summarise
from sdseg_monai.io.segments import Segment
from sdseg_monai.report import Picture, ReportCase
from sdseg_monai.report import page as page_module
from tests.makers.browser import needs_browser
from tests.report.cases import SHAPE, case_of, volume
from tests.report.viewer import differ


@pytest.fixture
def listener():
    """A server on this machine, and the paths that were asked of it."""
    requests = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            requests.append(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", requests
    server.shutdown()


@needs_browser
def test_hostile_names_are_text_and_the_page_cannot_ask_a_network(show, driver, listener):
    url, requests = listener
    evil = f"</script></title><img src='{url}/name' onerror='window.hacked=1'><script>window.hacked=1</script>"
    evil += '$title"&amp;'
    lines = f"{evil}\n<!-- body -->\0"
    picture = volume(values=(0, 1, 2, 7))
    picture = Picture(picture.image, {evil: picture.masks["mask"]}, picture.affine)
    cases = [case_of(picture, evil, facts={evil: evil}, flags=[evil, lines], metrics={"dice": 0.5, evil: 0.1})]
    cases.append(ReportCase("\udcff\ud800", "failed", {}, [lines]))
    segments = {1: Segment(evil, (1, 2, 3), None)}
    page = show(cases, title=evil, about={evil: {evil: [evil]}}, segments=segments, summary={evil: evil, "dice": 0.5})
    page.wake()
    assert driver.execute_script("return window.hacked ?? null") is None
    assert driver.title == evil and driver.find_element(By.TAG_NAME, "h1").text == evil
    assert page.rows().count(evil) == 1 and evil in page.find(".legend .name").text
    assert [image.get_attribute("src")[:5] for image in driver.find_elements(By.TAG_NAME, "img")] == ["data:"] * 3
    driver.get_log("browser")
    driver.get_log("performance")
    refused = driver.execute_async_script(
        """
        const [url, done] = arguments, violations = [];
        document.addEventListener('securitypolicyviolation', event => violations.push(event.effectiveDirective));
        for (const [tag, key] of [['img', 'src'], ['script', 'src'], ['iframe', 'src'], ['object', 'data']])
            document.body.append(Object.assign(document.createElement(tag), {[key]: url + '/' + tag}));
        document.body.append(Object.assign(document.createElement('link'), {rel: 'stylesheet', href: url + '/link'}));
        document.body.insertAdjacentHTML('beforeend', '<b onclick="window.hacked=1" id="inline">x</b>');
        document.getElementById('inline').click();
        fetch(url + '/fetch').catch(() => 0);
        setTimeout(() => done(violations), 400);
        """,
        url,
    )
    expected = {
        "img-src",
        "script-src-elem",
        "script-src-attr",
        "frame-src",
        "object-src",
        "style-src-elem",
        "connect-src",
    }
    assert set(refused) == expected
    assert requests == [] and driver.execute_script("return window.hacked ?? null") is None
    driver.get_log("browser")  # what was refused just now
    driver.get_log("performance")


def evaluated(count):
    """Return cases of an evaluation, and their summary."""
    import torch

    cases, agreements = [], []
    for n in range(count):
        label = volume(n).masks["mask"]
        prediction = np.where(np.random.default_rng(n).random(SHAPE) < n / count, label, 0).astype(np.uint8)
        agreement = compare_masks(f"case {n}", torch.from_numpy(prediction), torch.from_numpy(label), (1, 1, 1))
        agreements.append(agreement)
        metrics = {name: getattr(agreement, name) for name in METRICS}
        aside = [("foreground", agreement.foreground), *agreement.classes.items()]
        metrics |= {f"{name}_{subject}": getattr(a, name) for subject, a in aside for name in METRICS}
        masks = {"prediction": prediction, "label": label}
        cases.append(case_of(Picture(volume(n).image, masks, np.eye(4)), agreement.case, metrics=metrics))
    return cases, summarise(agreements)


@needs_browser
def test_an_evaluation(show, driver):
    """Means and intervals as they were given, a plot a metric, worst first, NaN a dash and sorted last either way."""
    cases, summary = evaluated(4)
    assert math.isnan(cases[0].metrics["hd95"])
    page = show(cases, summary={**summary, "tolerance": 2.0})
    text = driver.find_element(By.TAG_NAME, "main").text
    assert text.index("Agreement with the labels") < text.index("worst Dice first")
    low, high = summary["dice_interval"]
    assert f"{summary['dice']:.3f} 95 % CI {low:.3f} to {high:.3f}" in text
    assert f"{summary['hd95']:.2f}" in text and "defined for 3 of 4 cases" in text and "tolerance\n2" in text
    plots = driver.find_elements(By.CSS_SELECTOR, ".card svg")
    assert [len(plot.find_elements(By.TAG_NAME, "circle")) for plot in plots] == [4, 4, 3, 4, 4]
    rows = "table.sortable tbody tr"

    def column(number):
        cells = driver.find_elements(By.CSS_SELECTOR, f"{rows} > :nth-child({number})")
        return [cell.text for cell in cells]

    assert column(1) == [f"case {n}" for n in range(4)], "Dice rises with their number"
    headers = driver.find_elements(By.CSS_SELECTOR, "table.sortable th button")
    assert [header.text for header in headers][:5] == ["Case", "State", "Dice", "IoU", "HD95"]
    for direction in ("ascending", "descending"):
        headers[4].click()
        assert headers[4].find_element(By.XPATH, "..").get_attribute("aria-sort") == direction
        values = column(5)
        assert values[-1] == "–"
        numbers = [float(value) for value in values[:-1]]
        assert numbers == sorted(numbers, reverse=direction == "descending")
    headers[0].click()
    assert column(1) == [f"case {n}" for n in range(4)]
    assert "Nothing is segmented in the prediction." in page.find(".notes").text
    metrics = page.find("table.metrics").text
    assert "Mean of the classes 0.000" in metrics and "Foreground 0.000" in metrics and "front 0.000" in metrics
    assert [header.text for header in headers][7:] == ["Dice, Foreground", "Dice, front", "Dice, back"]


@needs_browser
def test_failed_flagged_empty_and_none(show, driver):
    picture = volume()
    empty = Picture(picture.image, {"mask": np.zeros(SHAPE, np.uint8)}, picture.affine)
    cases = [
        case_of(empty, "empty", facts={"front": "0.00 ml", "seconds": 0.25}),
        case_of(picture, "odd", flags=["a warning", "another"]),
        ReportCase("broken", "failed", {"seconds": 0.01}, ["broken.nii.gz: the file is empty"]),
    ]
    page = show(cases)
    assert page.rows() == ["broken", "odd", "empty"]
    assert driver.find_element(By.CLASS_NAME, "counts").text.split() == ["2", "done", "1", "failed", "1", "flagged"]
    assert [e.text for e in driver.find_elements(By.CLASS_NAME, "flags")] == [
        "broken.nii.gz: the file is empty",
        "a warning\nanother",
    ]
    page.wake(1)
    assert page.find(".notes", 1).text == "Nothing is segmented in the mask."
    assert page.find(".legend", 1).text.split("\n")[1:] == ["front", "0.00 ml", "back", "none"]
    pixels = page.pixels(1)
    page.set(".opacity", 100, 1)
    assert not differ(page.pixels(1), pixels).any()

    page = show([ReportCase("a", "failed", {}, ["no"])], summary=None)
    assert "0 done" in driver.find_element(By.CLASS_NAME, "counts").text
    page = show([])
    assert "No cases." in driver.find_element(By.TAG_NAME, "main").text
    show([], summary=summarise([]))
    assert "not defined for any case" in driver.find_element(By.TAG_NAME, "main").text


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_narrow_windows_contrast_and_paper(show, driver, scheme):
    cases, summary = evaluated(2)
    try:
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        size = {"width": 400, "height": 800, "deviceScaleFactor": 2, "mobile": True}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        page = show([*cases, ReportCase("x" * 300, "failed", {"y" * 200: "z" * 300}, ["w" * 300])], summary=summary)
        page.wake()
        assert driver.execute_script("return document.documentElement.scrollWidth") <= 400
        for css in (".research", ".soft", "h1", ".flags li", ".card h3", ".slider output", ".legend .name", "td"):
            assert contrast(driver, css) >= 4.5, css
        unnamed = [e for e in driver.find_elements(By.CSS_SELECTOR, "input, button") if not e.accessible_name]
        assert not unnamed
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
        assert not page.find(".main").is_displayed()
        assert [
            e.is_displayed()
            for e in driver.find_elements(By.CSS_SELECTOR, ".viewer")[0].find_elements(By.CSS_SELECTOR, ".plane canvas")
        ] == [True] * 3
    finally:
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})
        driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": 1500, "height": 760, "deviceScaleFactor": 1, "mobile": False},
        )


def contrast(driver, css):
    """Return the contrast of an element's text against what is behind it, by WCAG's formula."""
    colours = driver.execute_script(
        """
        const none = 'rgba(0, 0, 0, 0)', text = getComputedStyle(document.querySelector(arguments[0])).color;
        let element = document.querySelector(arguments[0]), back = none;
        for (; element && back === none; element = element.parentElement)
            back = getComputedStyle(element).backgroundColor;
        return [text, back]
        """,
        css,
    )

    def luminance(colour):
        parts = np.array([int(part) for part in re.findall(r"\d+", colour)[:3]]) / 255
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    light, dark = sorted(map(luminance, colours), reverse=True)[:2]
    return (light + 0.05) / (dark + 0.05)


def test_the_pages_own_parts_ask_for_nothing():
    """No address in template, style or script, and a policy that lets none be used."""
    text = "".join(
        page_module.files("sdseg_monai.report").joinpath(f"page.{kind}").read_text() for kind in ("html", "css", "js")
    )
    assert not re.search(r"https?:|//[a-z]|url\(|@import|XMLHttpRequest|fetch\(|WebSocket|eval\(", text)
    assert "default-src 'none'" in text
