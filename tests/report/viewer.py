"""The page of a report in a real browser, as the tests use it."""

import numpy as np
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from tests.report.cases import decode

SAMPLE = """
const [viewer, columns, rows] = arguments, found = [];
const shown = document.querySelectorAll('.viewer')[viewer].querySelector('.big canvas');
const canvas = Object.assign(document.createElement('canvas'), {width: shown.width, height: shown.height});
const context = canvas.getContext('2d', {willReadFrequently: true});
context.drawImage(shown, 0, 0);
const {data} = context.getImageData(0, 0, canvas.width, canvas.height);
for (let row = 0; row < rows; row++) for (let column = 0; column < columns; column++) {
    const x = Math.floor((column + 0.5) * canvas.width / columns), y = Math.floor((row + 0.5) * canvas.height / rows);
    found.push(...data.slice(4 * (y * canvas.width + x), 4 * (y * canvas.width + x) + 3));
}
return found
"""
PIXELS = "return document.querySelectorAll('.viewer')[arguments[0]].querySelector(arguments[1]).toDataURL()"
SET = """
const input = document.querySelectorAll('.viewer')[arguments[0]].querySelector(arguments[1]);
if (input.type === 'checkbox') { if (input.checked !== arguments[2]) input.click(); return; }
input.value = arguments[2];
input.dispatchEvent(new Event('input', {bubbles: true}));
"""


def differ(pixels, other_pixels):
    """Return which pixels [rows, columns] are not alike; the browser's rounding may differ by one from time to time."""
    return (np.abs(pixels.astype(int) - other_pixels) > 2).any(axis=-1)


class Page:
    """A report in the browser."""

    def __init__(self, driver, path):
        self.driver = driver
        driver.get(path.as_uri())
        driver.execute_script("document.documentElement.style.scrollBehavior = 'auto'")

    def find(self, css, viewer=0):
        return self.driver.find_elements(By.CSS_SELECTOR, ".viewer")[viewer].find_element(By.CSS_SELECTOR, css)

    def wait(self, condition):
        return WebDriverWait(self.driver, 20, 0.05).until(lambda _: condition())

    def wake(self, viewer=0):
        script = "document.querySelectorAll('.viewer')[arguments[0]].scrollIntoView({block: 'center'})"
        self.driver.execute_script(script, viewer)
        self.wait(
            lambda: "live" in self.driver.find_elements(By.CSS_SELECTOR, ".viewer")[viewer].get_attribute("class")
        )

    def set(self, css, value, viewer=0):
        self.driver.execute_script(SET, viewer, css, value)

    def plane(self, name, viewer=0):
        axis = {"sagittal": 0, "coronal": 1, "axial": 2}[name]
        self.driver.execute_script("arguments[0].click()", self.find(f".plane[data-axis='{axis}']", viewer))

    def voxels(self, shape, viewer=0):
        """Return the colours [rows, columns, RGB] in the middle of each voxel of the large picture."""
        rows, columns = shape
        return np.array(self.driver.execute_script(SAMPLE, viewer, columns, rows), np.uint8).reshape(rows, columns, 3)

    def pixels(self, viewer=0, css=".big canvas"):
        return decode(self.driver.execute_script(PIXELS, viewer, css))[..., :3]

    def told(self, viewer=0):
        return self.find(".slices output", viewer).text

    def rows(self):
        return [
            row.find_element(By.TAG_NAME, "th").text for row in self.driver.find_elements(By.CSS_SELECTOR, "tbody tr")
        ]
