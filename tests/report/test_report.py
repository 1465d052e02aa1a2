"""The report: its numbers, its size, and its page in a real browser, which may ask nothing of any network."""

import base64
import io
import json
import math
import re
import threading
import weakref
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.cbook import boxplot_stats
from nibabel.orientations import axcodes2ornt, inv_ornt_aff, ornt_transform
from PIL import Image
from scipy.ndimage import zoom
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.common.actions.wheel_input import ScrollOrigin
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from sdseg_monai.errors import InputError
from sdseg_monai.evaluation import METRICS, compare_masks, summarise
from sdseg_monai.io.segments import UNSURE, Segment
from sdseg_monai.report import Picture, ReportCase, write_report
from sdseg_monai.report import page as page_module
from sdseg_monai.report.cases import sort_cases
from sdseg_monai.report.charts import box_of, box_plot, ticks_of
from sdseg_monai.report.drawing import LONGEST_SIDE, MOST_SLICES, STILL_SIDE, draw
from tests.makers.browser import needs_browser, start_chromium
from tests.makers.places import SHARED
from tests.makers.volumes import OBLIQUE

SEGMENTS = {1: Segment("front", (230, 159, 0), None), 2: Segment("back", (0, 114, 178), None)}
PAGE_AXES = {"axial": (0, 1, 2), "coronal": (0, 2, 1), "sagittal": (1, 2, 0)}  # to the page's left, up, across
SHAPE = (11, 14, 9)
MOST_PAGE_BYTES = 1.5e6  # of a CT of 512 x 512 x 100 with many classes
QUIET = 0.3  # s, after which the wheel is no longer the page's own scrolling
LETTERS = {"axial": "RLAP", "coronal": "RLSI", "sagittal": "APSI"}


def affine_of(axes, spacing=(1.0, 1.0, 1.0), shape=SHAPE):
    """Return the affine of a grid whose axes run to ``axes``, such as ``LPS``."""
    turn = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(axes))
    straight = np.diag([*spacing, 1.0])
    straight[:3, 3] = (-30, 12, 5)
    return straight @ inv_ornt_aff(turn, shape)


def volume(seed=0, shape=SHAPE, affine=None, values=(0, 1, 2)):
    """Return a picture of noise with a mask of noise."""
    rng = np.random.default_rng(seed)
    mask = rng.choice(values, shape).astype(np.uint8)
    return Picture(
        rng.normal(100, 30, (1, *shape)).astype(np.float32), {"mask": mask}, np.eye(4) if affine is None else affine
    )


def case_of(picture, name="case", **options):
    return ReportCase(name, "done", load=lambda: picture, **options)


def upright(array, affine):
    """Return an array turned to the nearest RAS+ axes, by other code than the report's."""
    return np.asarray(nib.as_closest_canonical(nib.Nifti1Image(array, affine)).dataobj)


def upright_affine(affine):
    return nib.as_closest_canonical(nib.Nifti1Image(np.zeros(SHAPE, np.uint8), affine)).affine


def pages(array, plane):
    """Return the pages [slice, row, column] of an upright array, in the radiologists' way."""
    left, up, across = PAGE_AXES[plane]
    return array.transpose(across, up, left)[:, ::-1, ::-1]


# --- numbers and sizes ------------------------------------------------------------------------------------------------

VALUES = st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=30)


@settings(max_examples=60, deadline=None)
@given(VALUES)
def test_boxes_are_matplotlibs(values):
    box, expected = box_of(values), boxplot_stats(values)[0]
    keys = ("whislo", "q1", "med", "q3", "whishi")
    found = (box.low, box.first, box.median, box.third, box.high)
    np.testing.assert_allclose(found, [expected[key] for key in keys], rtol=1e-9, atol=1e-9)


@settings(max_examples=60, deadline=None)
@given(VALUES)
def test_axes_are_round_and_hold_every_value(values):
    ticks = ticks_of(min(values), max(values))
    assert 2 <= len(ticks) <= 6
    assert ticks[0] <= min(values) + 1e-6 and ticks[-1] >= max(values) - 1e-6
    np.testing.assert_allclose(np.diff(ticks), ticks[1] - ticks[0], rtol=1e-6)


def test_a_box_plot_has_a_dot_for_each_case_in_order_of_its_value():
    points = [(f"<{n}>", None, value) for n, value in enumerate((0.2, 0.9, 0.5))]
    drawn = box_plot("Dice", points, "{:.1f}".format, "{:g}".format)
    places = [float(x) for x in re.findall(r'<circle cx="([\d.]+)"', drawn)]
    assert places[0] < places[2] < places[1]
    assert "<title>&lt;1&gt;: 0.9</title>" in drawn and 'aria-label="Dice: median 0.5' in drawn


def test_what_needs_a_look_comes_first():
    def case(name, dice=None, status="done", flags=()):
        return ReportCase(name, status, {}, flags, {} if dice is None else {"dice": dice})

    cases = [
        case("a", 0.9),
        case("b", 0.1, flags=["x"]),
        case("c", math.nan),
        case("d", status="failed"),
        case("e", 0.5),
    ]
    assert "".join(c.name for c in sort_cases(cases, evaluated=True)) == "dcbea"
    assert "".join(c.name for c in sort_cases(cases, evaluated=False)) == "dbace"


def unpack(data, number=0):
    array = np.frombuffer(zlib.decompress(base64.b64decode(data["masks"][number])), np.uint8)
    return array.reshape(data["size"], order="F")


def decode(uri):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))


@pytest.mark.parametrize("axes", ["RAS", "LPS", "PIR", "SLA"])
def test_small_volumes_are_kept_whole(axes):
    picture = volume(affine=affine_of(axes))
    data = draw(picture, SEGMENTS).data
    mask = upright(picture.masks["mask"], picture.affine)
    assert data["size"] == data["full"] == list(mask.shape)
    np.testing.assert_array_equal(unpack(data), mask)
    sheet, (width, height) = decode(data["image"]), data["tile"]
    image = upright(picture.image[0], picture.affine)
    low, high = np.percentile(image, [0.5, 99.5])
    for k in range(mask.shape[2]):
        top, left = k // data["columns"] * height, k % data["columns"] * width
        wanted = np.clip((image[..., k].T - low) / (high - low), 0, 1) * 255
        assert np.abs(sheet[top : top + height, left : left + width] - wanted).max() <= 0.51


def test_large_volumes_are_reduced_and_it_is_said():
    shape = (40, 520, 300)
    mask = np.zeros(shape, np.uint8)
    mask[10:30, 100:300, 50:200] = 1
    mask[20, 402, 290] = 2  # a voxel that does not survive
    affine = np.diag([-1.5, 0.5, 0.5, 1.0])
    drawing = draw(Picture(mask[None].astype(np.float32), {"mask": mask}, affine), SEGMENTS)
    assert drawing.data["axis"] == 0, "the thick slices are sagittal ones"
    assert drawing.data["size"] == [40, LONGEST_SIDE, 148]
    extent = np.array(drawing.data["size"]) * drawing.data["spacing"]
    np.testing.assert_allclose(extent, [60, 260, 150], rtol=0.02)
    text = " ".join(drawing.notes)
    assert "256 × 148 of 520 × 300 pixels" in text and "Too small to be seen at this size: back." in text
    assert drawing.amounts[1]["mask"] == pytest.approx(20 * 200 * 150 * 1.5 * 0.25 / 1000)
    assert drawing.amounts[2]["mask"] == pytest.approx(1.5 * 0.25 / 1000), "of the whole mask, not of what is shown"
    small = unpack(drawing.data)
    assert small[::-1][20, 49:148].any() and (small == 1).mean() == pytest.approx((mask == 1).mean(), rel=0.05)

    tall = draw(Picture(None, {"mask": np.ones((3, 4, 500), np.uint8)}, np.eye(4)), SEGMENTS)
    kept = tall.data["kept"]
    assert len(kept) == tall.data["size"][2] == MOST_SLICES and (kept[0], kept[-1]) == (0, 499)
    assert set(np.diff(kept)) <= {3, 4} and f"{MOST_SLICES} of 500 axial slices" in " ".join(tall.notes)


@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 4, 1), (1, 5, 4), (4, 1, 5), (2, 300, 2), (1, 1, 200)])
@pytest.mark.parametrize("image", [True, False])
def test_any_shape_is_drawn(shape, image):
    picture = volume(shape=shape, affine=OBLIQUE)
    drawing = draw(picture if image else Picture(None, picture.masks, OBLIQUE), SEGMENTS)
    assert drawing.stills and all(max(decode(still).shape) <= STILL_SIDE for still in drawing.stills.values())
    assert drawing.data["axis"] in drawing.data["planes"]
    assert any("turned by up to" in note for note in drawing.notes)
    json.dumps(drawing.data, allow_nan=False)


def red_place(picture):
    """Return where [row, column] the red pixels' middle is, as fractions."""
    rows, columns = np.nonzero(picture[..., 0] > picture[..., 1].astype(int) + 60)
    return np.array([rows.mean() / picture.shape[0], columns.mean() / picture.shape[1]])


ODD_AFFINES = {axes: affine_of(axes, (1.0, 1.5, 2.0)) for axes in ("RAS", "LPS", "PIR", "ASL", "IRP")} | {
    "oblique": OBLIQUE,
    "flipped": OBLIQUE @ np.array([[0, 1, 0, 0], [0, 0, -1, 0], [-1, 0, 0, 0], [0, 0, 0, 1]]),
}
CORNERS = {"axial": (0, 1), "coronal": (0, 1), "sagittal": (0, 0)}  # top right, top right, top left


def left_anterior_superior(affine):
    """Return a mask of the corner that is furthest to the patient's left, front and head, by coordinates alone."""
    grid = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), -1)
    corners = [grid[tuple(-bool(n) for n in np.unravel_index(i, (2, 2, 2)))] for i in range(8)]
    corner = max(corners, key=lambda voxel: (affine[:3, :3] @ voxel) @ [-1, 1, 1])
    return (np.abs(grid - corner).max(axis=-1) < 3).astype(np.uint8)


@pytest.mark.parametrize("name", ODD_AFFINES)
def test_stills_are_in_the_radiologists_orientation(name):
    affine = ODD_AFFINES[name]
    segments = {1: Segment("corner", (255, 0, 0), None)}
    mask = left_anterior_superior(affine)
    drawing = draw(Picture(np.full((1, *SHAPE), 7, np.float32), {"mask": mask}, affine), segments)
    spacing = dict(zip("xyz", drawing.data["spacing"], strict=True))
    size = dict(zip("xyz", drawing.data["size"], strict=True))
    for axis, plane, (across, up) in ((2, "axial", "xy"), (1, "coronal", "xz"), (0, "sagittal", "yz")):
        still = decode(drawing.stills[axis])
        assert (np.abs(red_place(still) - CORNERS[plane]) < 0.45).all(), plane
        aspect = size[across] * spacing[across] / (size[up] * spacing[up])
        assert still.shape[1] / still.shape[0] == pytest.approx(aspect, rel=0.02)
    edges = np.linalg.norm(affine[:3, :3], axis=0)
    np.testing.assert_allclose(sorted(drawing.data["spacing"]), sorted(edges), rtol=1e-5)


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (Picture(np.zeros((1, 2, 3, 4)), {"mask": np.zeros((2, 3, 5), np.uint8)}, np.eye(4)), "same grid"),
        (Picture(np.zeros((2, 2, 3, 4)), {}, np.eye(4)), "1 or 3 channels"),
        (Picture(np.zeros((3, 2, 3, 4)), {}, np.eye(4)), r"of a photograph \[X, Y, 1\]"),
        (Picture(np.zeros((1, 2, 0, 4)), {}, np.eye(4)), "expected"),
        (Picture(None, {}, np.eye(4)), "something to draw"),
        (Picture(None, {"mask": np.full((2, 3, 4), 257, np.uint16)}, np.eye(4)), "holds uint16"),
    ],
)
def test_what_cannot_be_drawn_is_named_and_the_report_is_written(tmp_path, picture, message):
    with pytest.raises(InputError, match=message):
        draw(picture, SEGMENTS)
    text = report_text(tmp_path, [case_of(picture), case_of(volume())])
    assert "no pictures: " in text and text.count('class="viewer') == 1


def report_text(tmp_path, cases, **options):
    path = tmp_path / "report.html"
    write_report(path, **{"title": "A run", "about": {}, "segments": SEGMENTS, "cases": cases, **options})
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]
    return path.read_text("utf-8")


def test_pictures_are_loaded_once_one_at_a_time_and_only_when_drawn(tmp_path):
    made, loaded = [], []

    def load(name):
        assert not any(picture() for picture in made), "another case's picture is still in memory"
        picture = volume()
        made.append(weakref.ref(picture))
        loaded.append(name)
        return picture

    cases = [ReportCase(f"case{n}", "done", load=lambda n=n: load(n)) for n in range(5)]
    cases += [ReportCase("flagged", "done", {}, ["odd"], load=lambda: load("flagged")), ReportCase("bad", "failed")]
    text = report_text(tmp_path, cases, most_viewers=3)
    assert loaded == ["flagged", 0, 1]
    assert "3 more cases have none" in text and text.count('class="viewer') == 3
    assert all(f"case{n}" in text for n in range(5))


def test_a_file_that_is_gone_spoils_no_report(tmp_path):
    def load():
        raise FileNotFoundError(2, "No such file", "<scan>")

    text = report_text(tmp_path, [ReportCase("a", "done", load=load), case_of(volume())])
    assert "no pictures: [Errno 2] No such file: &#x27;&lt;scan&gt;&#x27;" in text


def test_a_report_that_cannot_be_written_leaves_nothing(tmp_path):
    (tmp_path / "report.html").mkdir()
    with pytest.raises(InputError, match="is no ordinary file"):
        write_report(tmp_path / "report.html", title="", about={}, cases=[], segments={})
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_a_ct_of_many_classes_is_small_enough(tmp_path):
    """Real tissue on a grid of 512 x 512 x 100, with noise, which is what costs bytes."""
    folder = SHARED / "data" / "totalsegmentator-example"
    if not folder.is_dir():
        pytest.skip(f"no data at {folder}; set SDSEG_SHARED")
    ct = nib.load(folder / "example_ct.nii.gz").get_fdata(dtype=np.float32)
    mask = np.asarray(nib.load(folder / "example_seg_fast_force_split.nii.gz").dataobj).astype(np.uint8)
    factors = np.array([512, 512, 100]) / ct.shape
    ct, mask = zoom(ct, factors, order=1), zoom(mask, factors, order=0)
    ct += np.random.default_rng(0).normal(0, 15, ct.shape).astype(np.float32)
    picture = Picture(ct[None], {"mask": mask}, np.diag([0.7, 0.6, 3.4, 1]))
    names = {value: Segment(f"organ {value}", (value, 255 - value, 90), None) for value in range(1, 105)}
    text = report_text(tmp_path, [case_of(picture)], segments=names)
    assert len(np.unique(mask)) > 50 and len(text.encode()) < MOST_PAGE_BYTES


# --- the page in a browser --------------------------------------------------------------------------------------------

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


def differ(one, other):
    """Return which pixels [rows, columns] are not alike; the browser's rounding may differ by one from time to time."""
    return (np.abs(one.astype(int) - other) > 2).any(axis=-1)


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
    asked = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    urls = [event["params"]["request"]["url"] for event in asked if event["method"] == "Network.requestWillBeSent"]
    assert [url for url in urls if not url.startswith(("data:", (tmp_path / "report.html").as_uri(), "about:"))] == []


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
        wanted = pages(mask, plane)
        for index in range(1, len(wanted), 4):
            page.set(".slice", index)
            assert page.told() == f"{plane.capitalize()} {index + 1} of {len(wanted)}"
            page.set(".opacity", 0)
            alone = page.voxels(wanted[index].shape)
            page.set(".opacity", 100)
            drawn = page.voxels(wanted[index].shape)
            expected = np.where((wanted[index] > 0)[..., None], colours[wanted[index]], alone)
            assert not differ(drawn, expected).any(), (plane, index)
            assert len(np.unique(alone)) > 20, "the image is blank"


@needs_browser
def test_opacity_and_toggles(show):
    """At opacity 0, with the mask off and with no segment the image is alone; a segment off leaves the others."""
    picture = volume()
    page = show([case_of(picture)])
    page.wake()
    shown = page.pixels()
    page.set(".opacity", 0)
    alone = page.pixels()
    assert page.find(".opacity ~ output").text == "0 %" and differ(shown, alone).any()
    page.set(".opacity", 50)
    assert not differ(page.pixels(), shown).any()
    page.set(".mask", False)
    assert not differ(page.pixels(), alone).any()
    page.set(".mask", True)
    page.find("button[value=none]").click()
    assert not differ(page.pixels(), alone).any()
    page.find("button[value=all]").click()
    assert not differ(page.pixels(), shown).any()
    page.set(".segment[value='1']", False)
    values = pages(picture.masks["mask"], "axial")[int(page.find(".slice").get_attribute("value"))]
    found = page.voxels(values.shape)
    page.set(".opacity", 0)
    np.testing.assert_array_equal(differ(found, page.voxels(values.shape)), values == 2)


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
        shown, still = page.pixels(), page.pixels(css=f".plane[data-axis='{axis}'] canvas")
        for picture_shown in (shown, still):
            assert (np.abs(red_place(picture_shown) - CORNERS[plane]) < 0.45).all(), plane
        size, spacing = upright(picture.masks["mask"], affine), nib.affines.voxel_sizes(upright_affine(affine))
        across, up, _ = PAGE_AXES[plane]
        aspect = size.shape[across] * spacing[across] / (size.shape[up] * spacing[up])
        assert shown.shape[1] / shown.shape[0] == pytest.approx(aspect, rel=0.02)


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
    changed = differ(page.pixels(), whole_alone)
    rows, columns = np.nonzero(changed)
    side = changed.shape[0] / 10  # label's edges lie at the voxels 2 and 8, seen from either side
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
    drawn = page.pixels()
    rows, columns = (np.arange(n) * m // n for n, m in zip(drawn.shape[:2], unsure.shape, strict=True))
    inside = drawn[unsure[np.ix_(rows, columns)]]
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


@pytest.fixture
def listener():
    """A server on this machine, and the paths that were asked of it."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()


@needs_browser
def test_hostile_names_are_text_and_the_page_cannot_ask_a_network(show, driver, listener):
    url, asked = listener
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
    wanted = {
        "img-src",
        "script-src-elem",
        "script-src-attr",
        "frame-src",
        "object-src",
        "style-src-elem",
        "connect-src",
    }
    assert set(refused) == wanted
    assert asked == [] and driver.execute_script("return window.hacked ?? null") is None
    driver.get_log("browser")  # what was refused just now
    driver.get_log("performance")


def evaluated(count):
    """Return cases of an evaluation, and their summary."""
    import torch

    cases, found = [], []
    for n in range(count):
        label = volume(n).masks["mask"]
        prediction = np.where(np.random.default_rng(n).random(SHAPE) < n / count, label, 0).astype(np.uint8)
        agreement = compare_masks(f"case {n}", torch.from_numpy(prediction), torch.from_numpy(label), (1, 1, 1))
        found.append(agreement)
        metrics = {name: getattr(agreement, name) for name in METRICS}
        metrics |= {f"{name}_{k}": getattr(a, name) for k, a in agreement.classes.items() for name in METRICS}
        masks = {"prediction": prediction, "label": label}
        cases.append(case_of(Picture(volume(n).image, masks, np.eye(4)), agreement.case, metrics=metrics))
    return cases, summarise(found)


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
    assert "Foreground 0.000" in metrics and "front 0.000" in metrics


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
    shown = page.pixels(1)
    page.set(".opacity", 100, 1)
    assert not differ(page.pixels(1), shown).any()

    page = show([ReportCase("a", "failed", {}, ["no"])], summary=None)
    assert "0 done" in driver.find_element(By.CLASS_NAME, "counts").text
    page = show([])
    assert "No cases." in driver.find_element(By.TAG_NAME, "main").text
    show([], summary=summarise([]))
    assert "not defined for any case" in driver.find_element(By.TAG_NAME, "main").text


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
