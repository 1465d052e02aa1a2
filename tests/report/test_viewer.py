"""The page's viewers in a real browser: what they draw, where, and how they react to input."""

import nibabel as nib
import numpy as np
import pytest
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.common.actions.wheel_input import ScrollOrigin
from selenium.webdriver.common.by import By

from sdseg_monai.io.segments import UNSURE, Segment
from sdseg_monai.report import Picture
from tests.makers.browser import needs_browser
from tests.report.cases import (
    CORNERS,
    LETTERS,
    ODD_AFFINES,
    PAGE_AXES,
    SEGMENTS,
    SHAPE,
    affine_of,
    case_of,
    left_anterior_superior,
    pages,
    red_place,
    upright,
    upright_affine,
    volume,
)
from tests.report.viewer import differ

QUIET = 0.3  # s, after which the wheel is no longer the page's own scrolling


@needs_browser
@pytest.mark.parametrize("axes", ["PIL"])
def test_drawn_voxels_are_the_masks(show, axes):
    """On every slice of each plane: the colour on the mask's voxels, the image alone on the others."""
    picture = volume(affine=affine_of(axes))
    mask = upright(picture.masks["mask"], picture.affine)
    page = show([case_of(picture)])
    page.wake()
    colours = np.array([(0, 0, 0), *(SEGMENTS[n].colour for n in (1, 2))])
    for plane in PAGE_AXES:
        page.plane(plane)
        assert "".join(page.find(f".big .{side}").text for side in ("left", "right", "top", "bottom")) == LETTERS[plane]
        mask_pages = pages(mask, plane)
        for index in range(1, len(mask_pages), 4):
            page.set(".slice", index)
            assert page.told() == f"{plane.capitalize()} {index + 1} of {len(mask_pages)}"
            page.set(".opacity", 0)
            alone = page.voxels(mask_pages[index].shape)
            page.set(".opacity", 100)
            voxels = page.voxels(mask_pages[index].shape)
            expected = np.where((mask_pages[index] > 0)[..., None], colours[mask_pages[index]], alone)
            assert not differ(voxels, expected).any(), (plane, index)
            assert len(np.unique(alone)) > 20, "the image is blank"


@needs_browser
def test_opacity_and_toggles(show):
    """At opacity 0, with the mask off and with no segment the image is alone; a segment off leaves the others."""
    picture = volume()
    page = show([case_of(picture)])
    page.wake()
    pixels = page.pixels()
    page.set(".opacity", 0)
    alone = page.pixels()
    assert page.find(".opacity ~ output").text == "0 %" and differ(pixels, alone).any()
    page.set(".opacity", 50)
    assert not differ(page.pixels(), pixels).any()
    page.set(".mask", False)
    assert not differ(page.pixels(), alone).any()
    page.set(".mask", True)
    page.find("button[value=none]").click()
    assert not differ(page.pixels(), alone).any()
    page.find("button[value=all]").click()
    assert not differ(page.pixels(), pixels).any()
    page.set(".segment[value='1']", False)
    values = pages(picture.masks["mask"], "axial")[int(page.find(".slice").get_attribute("value"))]
    voxels = page.voxels(values.shape)
    page.set(".opacity", 0)
    np.testing.assert_array_equal(differ(voxels, page.voxels(values.shape)), values == 2)


@needs_browser
def test_slices_are_reached_by_slider_wheel_and_keys(show, driver):
    page = show([case_of(volume(seed)) for seed in range(3)])
    page.wake(1)
    stage = page.find(".big", 1)

    def index():
        return int(page.find(".slice", 1).get_attribute("value"))

    start, before = index(), page.pixels(1)
    page.find(".slice", 1).send_keys(Keys.ARROW_RIGHT)
    assert index() == start + 1 and differ(page.pixels(1), before).any()
    stage.send_keys(Keys.ARROW_DOWN)
    assert index() == start
    assert not differ(page.pixels(1), before).any()
    scrolled = driver.execute_script("return scrollY")
    origin = ScrollOrigin.from_element(stage)
    for turn in (1, 2):
        ActionChains(driver).scroll_from_origin(origin, 0, 100).perform()
        page.wait(lambda turn=turn: index() == start - turn)
    assert driver.execute_script("return scrollY") == scrolled, "the page moved with the slices"
    ActionChains(driver).scroll_from_origin(origin, 0, -100).perform()
    page.wait(lambda: index() == start - 1)
    pad = "arguments[0].dispatchEvent(new WheelEvent('wheel', {deltaY: -4, bubbles: true, cancelable: true}))"
    for _ in range(10):  # a touchpad's many small steps
        driver.execute_script(pad, stage)
    assert index() == start
    stage.send_keys(Keys.HOME)
    assert index() == 0
    ActionChains(driver).scroll_from_origin(origin, 0, 100).perform()  # at its end the page goes on
    page.wait(lambda: driver.execute_script("return scrollY") > scrolled)
    assert index() == 0
    stage.send_keys(Keys.PAGE_UP)
    assert index() == SHAPE[2] - 1
    assert page.told(1) == f"Axial {SHAPE[2]} of {SHAPE[2]}"


@needs_browser
@pytest.mark.parametrize("name", ["LPS", "PIR", "flipped"])
def test_the_viewer_is_in_the_radiologists_orientation(show, name):
    affine = ODD_AFFINES[name]
    picture = Picture(np.full((1, *SHAPE), 7, np.float32), {"mask": left_anterior_superior(affine)}, affine)
    page = show([case_of(picture)], segments={1: Segment("corner", (255, 0, 0), None)})
    page.wake()
    for axis, plane in enumerate(("sagittal", "coronal", "axial")):
        page.plane(plane)
        pixels, still = page.pixels(), page.pixels(css=f".plane[data-axis='{axis}'] canvas")
        for picture_shown in (pixels, still):
            assert (np.abs(red_place(picture_shown) - CORNERS[plane]) < 0.45).all(), plane
        size, spacing = upright(picture.masks["mask"], affine), nib.affines.voxel_sizes(upright_affine(affine))
        across, up, _ = PAGE_AXES[plane]
        aspect = size.shape[across] * spacing[across] / (size.shape[up] * spacing[up])
        assert pixels.shape[1] / pixels.shape[0] == pytest.approx(aspect, rel=0.02)


@needs_browser
def test_two_masks_are_filled_and_outlined(show):
    prediction, label = np.zeros((2, 10, 10, 3), np.uint8)
    prediction[2:5, 2:5], label[2:8, 2:8] = 1, 1
    image = np.random.default_rng(0).normal(size=(1, 10, 10, 3)).astype(np.float32)
    page = show([case_of(Picture(image, {"prediction": prediction, "label": label}, np.eye(4)))])
    page.wake()
    page.set(".opacity", 0)
    alone, whole_alone = page.voxels((10, 10)), page.pixels()
    page.set(".opacity", 60)
    inside = pages(prediction, "axial")[1] > 0
    np.testing.assert_array_equal(differ(page.voxels((10, 10)), alone), inside)
    page.set(".mask[value='0']", False)
    assert not differ(page.voxels((10, 10)), alone).any()
    difference = differ(page.pixels(), whole_alone)
    rows, columns = np.nonzero(difference)
    side = difference.shape[0] / 10  # label's edges lie at the voxels 2 and 8, seen from either side
    assert abs(rows.min() - 2 * side) < 4 and abs(rows.max() - 8 * side) < 4
    assert abs(columns.min() - 2 * side) < 4 and abs(columns.max() - 8 * side) < 4
    assert page.find(".order").text == "prediction / label"
    assert page.find(".amount").text == "0.027 / 0.108 ml"


@needs_browser
def test_unsure_voxels_are_hatched_in_grey(show):
    picture = volume(values=(0, 0, 1, UNSURE))
    mask = picture.masks["mask"]
    page = show([case_of(picture)])
    page.wake()
    assert [name.text for name in page.driver.find_elements(By.CSS_SELECTOR, ".legend .name")] == [
        "front",
        "unsure",
        "back",
    ]
    index = int(page.find(".slice").get_attribute("value"))
    page.set(".opacity", 100)
    unsure = pages(mask, "axial")[index] == UNSURE
    pixels = page.pixels()
    rows, columns = (np.arange(n) * m // n for n, m in zip(pixels.shape[:2], unsure.shape, strict=True))
    inside = pixels[unsure[np.ix_(rows, columns)]]
    greys = {tuple(pixel) for pixel in np.unique(inside, axis=0)} & {(232, 232, 232), (64, 64, 64)}
    assert len(greys) == 2
    assert np.isin(inside[:, 0], (232, 64)).mean() > 0.9, "the edges of voxels may lie between pixels"
    page.set(".segment[value='255']", False)
    assert not (page.voxels(unsure.shape)[unsure] == 232).all(axis=1).all()


@needs_browser
def test_a_photograph_lies_as_in_its_file(show):
    rows, columns = 20, 30
    image = np.zeros((3, rows, columns, 1), np.float32)
    image[0] = np.linspace(0, 255, rows)[:, None, None]
    image[1] = np.linspace(0, 255, columns)[:, None]
    mask = np.zeros((rows, columns, 1), np.uint8)
    mask[2:5, 20:28] = 1
    page = show([case_of(Picture(image, {"mask": mask}, np.eye(4)))])
    page.wake()
    assert not page.driver.find_elements(By.CSS_SELECTOR, ".edge") and not page.find(".slices").is_displayed()
    assert page.find(".amount").text == "4 %"
    page.set(".opacity", 0)
    alone = page.voxels((rows, columns))
    assert np.abs(alone - np.moveaxis(image[..., 0], 0, -1)).max() < 12
    page.set(".opacity", 100)
    np.testing.assert_array_equal(differ(page.voxels((rows, columns)), alone), mask[..., 0] > 0)


@needs_browser
def test_viewers_wake_in_view_and_few_stay_awake(show, driver):
    page = show([case_of(volume(n), f"case {n}", flags=["x"] * 8) for n in range(9)])

    def awake():
        return [
            n
            for n, v in enumerate(driver.find_elements(By.CSS_SELECTOR, ".viewer"))
            if "live" in v.get_attribute("class")
        ]

    assert 8 not in awake()
    page.wake(0)
    page.set(".slice", 1)
    first = page.pixels()
    for viewer in range(9):
        page.wake(viewer)
    assert 8 in awake() and 0 not in awake() and len(awake()) <= 5
    assert page.find(".plane img").is_displayed(), "a sleeping viewer shows its still pictures"
    page.wake(0)
    assert page.find(".slice").get_attribute("value") == "1"
    assert not differ(page.pixels(), first).any()
