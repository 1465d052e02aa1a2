"""OHIF as MONAI Label ships it, in headless Chromium."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from PIL import Image
from selenium.common.exceptions import NoAlertPresentException, WebDriverException
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import Select, WebDriverWait

from tests.makers.browser import SECONDS, start_chromium

LOADED = """
const service = window.services?.cornerstoneViewportService, names = [...service?.viewportsById.keys() ?? []];
return names.length > 0 && names.every(name => service.getCornerstoneViewport(name)?.getImageData())
    && window.cornerstone.cache.getVolumes().every(volume => volume.loadStatus?.loaded ?? true)
"""
LABELMAP = """
const map = window.services.segmentationService.getSegmentations()[0]?.representationData.Labelmap;
return (map?.imageIds ?? []).map((id, index) => {
    const image = window.cornerstone.cache.getImage(id);
    return [map.referencedImageIds[index], image.rows, image.columns, Array.from(image.voxelManager.getScalarData())];
})
"""
VIEWS = """
const service = window.services.cornerstoneViewportService;
return [...service.viewportsById.keys()].map(id => {
    const view = service.getCornerstoneViewport(id), camera = view.getCamera();
    const {color} = window.cornerstoneTools.segmentation.config;
    return {
        id, position: camera.focalPoint, normal: camera.viewPlaneNormal,
        axes: [[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]].map(point => view.worldToCanvas(point)),
        picture: view.canvas.toDataURL(),
        colours: [1, 2].map(index => color.getSegmentIndexColor(id, '1', index)),
    };
})
"""
SHOW = """
const [index, done] = arguments, service = window.services.cornerstoneViewportService;
const views = [...service.viewportsById.keys()].map(id => service.getCornerstoneViewport(id));
Promise.all(views.map(view => view.setImageIdIndex(index))).then(() => done())
"""
# what save_label of the shipped MonaiLabelClient.js does, for which the shipped panel has no button
SUBMIT = """
const [image, info, done] = arguments;
const volume = window.services.segmentationService.getLabelmapVolume('1');
const form = new FormData();
form.append('params', JSON.stringify({label_info: info}));
form.append('label', new Blob([new Uint8Array(volume.voxelManager.getCompleteScalarDataArray())]), 'label.bin');
fetch('/datastore/label?image=' + image, {method: 'PUT', body: form}).then(answer => done(answer.status));
"""


class View:
    """What a viewport shows: ``pixels`` [H, W, RGB] and where a point of the patient, in mm and LPS, is among them."""

    def __init__(self, state: dict[str, Any]) -> None:
        self.id = state["id"]
        self.colours = [np.array(colour[:3], dtype=float) for colour in state["colours"] if colour]  # of segments 1, 2
        self.position, self.normal = np.array(state["position"]), np.array(state["normal"])
        self._zero, *axes = np.array(state["axes"])
        self._axes = np.array(axes) - self._zero
        file = io.BytesIO(base64.b64decode(state["picture"].partition(",")[2]))
        self.pixels = np.asarray(Image.open(file).convert("RGB"), dtype=float)

    def sample(self, points: np.ndarray) -> np.ndarray:
        """Return the colours [N, RGB] at ``points`` [N, 3], which must be in the picture."""
        columns, rows = np.rint(self._zero + points @ self._axes).astype(int).T
        return self.pixels[rows, columns]

    def depth(self, points: np.ndarray) -> np.ndarray:
        """Return the distances [N] of ``points`` [N, 3] from the plane that is shown, in mm."""
        return np.abs((points - self.position) @ self.normal)


class Ohif:
    """A browser, closed at the end of a ``with`` block; of the network it reaches this machine alone.

    Args:
        url: of the server.
    """

    def __init__(self, url: str) -> None:
        self.url = url

    def __enter__(self) -> Ohif:
        self.driver = start_chromium()
        return self

    def __exit__(self, *_: object) -> None:
        self.driver.quit()

    def wait(self, condition: Callable[[], Any], what: str) -> Any:
        """Return the first true result of ``condition``; elements may come and go meanwhile."""
        waiting = WebDriverWait(self.driver, SECONDS, 0.2, ignored_exceptions=[WebDriverException])
        return waiting.until(lambda _: condition(), f"{what}: not within {SECONDS} s")

    def click(self, xpath: str) -> None:
        """Click the last visible element of ``xpath`` once it can be clicked."""

        def click() -> bool:
            visible = [element for element in self.driver.find_elements(By.XPATH, xpath) if element.is_displayed()]
            for element in visible[-1:]:
                element.click()
            return bool(visible)

        self.wait(click, f"click on {xpath}")

    def type(self, xpath: str, text: str) -> None:
        """Replace the text of a field at once: OHIF's panel falls over an empty URL."""

        def enter() -> bool:
            field = self.driver.find_element(By.XPATH, xpath)
            field.send_keys(Keys.CONTROL + "a")
            field.send_keys(text)
            return field.get_attribute("value") == text

        self.wait(enter, f"type into {xpath}")

    def select(self, element: str, choice: str) -> None:
        """Choose from the list with the id ``element``."""
        Select(self.driver.find_element(By.ID, element)).select_by_visible_text(choice)

    def ids(self, css: str) -> list[str]:
        """Return the ids of the elements within ``css``."""
        elements = self.driver.find_elements(By.CSS_SELECTOR, f"{css} [id]")
        return [str(element.get_attribute("id")) for element in elements]

    def wait_for_text(self, text: str) -> None:
        """Wait until the page shows ``text``."""
        self.wait(lambda: text in self.text, f"the text {text!r}")

    @property
    def text(self) -> str:
        """What the page shows."""
        return self.driver.execute_script("return document.body.innerText")

    def open_list(self) -> None:
        """Open the list of studies."""
        self.driver.get(f"{self.url}/ohif/")
        self.wait_for_text("Study List")

    def open_study(self, study: str, mode: str = "monai-label") -> None:
        """Open a study in a mode and wait for its images."""
        self.driver.get(f"{self.url}/ohif/{mode}?StudyInstanceUIDs={study}")
        self.wait_for_images()

    def wait_for_images(self) -> None:
        """Wait until the study's images are there."""
        self.wait(lambda: self.driver.execute_script(LOADED), "the images")

    def hide_notice(self) -> None:
        """Confirm that this is for investigational use, as OHIF asks once."""
        self.click("//button[contains(., 'Confirm and Hide')]")

    def connect(self) -> None:
        """Connect the panel with the server and wait for its empty segmentation."""
        self.type("//input[@id='monailabelServerURL']", f"{self.url}/")
        self.click("//table[@class='settingsTable']//button")
        self.wait(self.labelmap, "the panel's segmentation")

    def run_model(self) -> None:
        """Press Run under Auto-Segmentation, without waiting for the result."""
        self.click("//button[@title='Run Segmentation']")

    def labelmap(self) -> dict[str, np.ndarray]:
        """Return the segmentation's slices [rows, columns] by the SOPInstanceUIDs of what they are drawn on."""
        slices = self.driver.execute_script(LABELMAP)
        return {
            image.partition("/instances/")[2].partition("/")[0]: np.array(voxels).reshape(rows, columns)
            for image, rows, columns, voxels in slices
        }

    def views(self) -> list[View]:
        """Return the viewports once they have stopped changing."""
        states: list[Any] = []

        def settled() -> bool:
            states.append(self.driver.execute_script(VIEWS))
            return len(states) > 2 and states[-3] == states[-2] == states[-1]

        self.wait(settled, "an end of the drawing")
        return [View(state) for state in states[-1]]

    def show_slice(self, index: int) -> None:
        """Show the slice with that number in a stack of slices."""
        self.driver.execute_async_script(SHOW, index)

    def submit(self, image: str, label_info: list[dict[str, Any]]) -> int:
        """Submit the segmentation as a label and return the answer's status."""
        return self.driver.execute_async_script(SUBMIT, image, label_info)

    def accept_question(self) -> None:
        """Accept the browser's own question."""

        def accept() -> bool:
            try:
                self.driver.switch_to.alert.accept()
            except NoAlertPresentException:
                return False
            return True

        self.wait(accept, "a question")

    def double_click(self, xpath: str) -> None:
        """Double-click the last element of ``xpath``."""
        element = self.wait(lambda: self.driver.find_elements(By.XPATH, xpath), xpath)[-1]
        ActionChains(self.driver).double_click(element).perform()

    def requests(self) -> tuple[set[str], set[str]]:
        """Return the hosts that were asked since the last call, and the server's answers that were errors."""
        hosts, errors = set(), set()
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                hosts.add(urlsplit(message["params"]["request"]["url"]).hostname)
            elif message["method"] == "Network.responseReceived":
                response = message["params"]["response"]
                if response["status"] >= 400:
                    errors.add(f"{response['status']} {urlsplit(response['url']).path}")
        return hosts - {None}, errors

    def script_errors(self) -> list[str]:
        """Return what failed in the page's own code since the last call."""
        return [
            entry["message"]
            for entry in self.driver.get_log("browser")
            if entry["source"] == "javascript" or "Error Boundary" in entry["message"]
        ]

    def save_picture(self, path: Path) -> None:
        """Save what the window shows as a small PNG, once no notification covers it."""
        self.wait(lambda: "Successful" not in self.text, "the end of the notifications")
        picture = Image.open(io.BytesIO(self.driver.get_screenshot_as_png())).convert("RGB")
        picture.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
