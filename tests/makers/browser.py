"""Headless Chromium, which can connect only to this machine."""

from __future__ import annotations

import os
import shutil

import pytest
from selenium.webdriver import Chrome, ChromeOptions, ChromeService

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
WINDOW = {"width": 1500, "height": 760, "deviceScaleFactor": 1, "mobile": False}
SECONDS = 90  # for anything that the page does
needs_browser = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="no Chromium with its driver here; Debian has it: apt install chromium-driver"
)


def start_chromium() -> Chrome:
    """Start a headless browser that notes what it asks of the network, of which it reaches this machine alone."""
    options = ChromeOptions()
    options.binary_location = str(CHROMIUM)
    options.add_argument("--headless=new")
    options.add_argument("--use-angle=swiftshader")  # WebGL 2 without a GPU
    options.add_argument("--enable-unsafe-swiftshader")
    options.add_argument("--disable-dev-shm-usage")
    options.add_argument("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1")
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    options.add_experimental_option("perfLoggingPrefs", {"enableNetwork": True, "enablePage": False})
    driver = Chrome(options=options, service=ChromeService(DRIVER))
    driver.set_script_timeout(SECONDS)
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", WINDOW)
    return driver
