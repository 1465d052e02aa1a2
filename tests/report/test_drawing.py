"""Pictures of cases in a page: reduced sizes, orientation, and files that cannot be drawn."""

import base64
import json
import weakref
import zlib
from functools import partial

import numpy as np
import pytest
from scipy.ndimage import zoom

from sdseg_monai.errors import InputError
from sdseg_monai.io.segments import Segment
from sdseg_monai.report import Picture, ReportCase, write_report
from sdseg_monai.report.drawing import LONGEST_SIDE, MOST_SLICES, STILL_SIDE, draw
from tests.makers.places import SHARED
from tests.makers.volumes import OBLIQUE, load_nifti
from tests.report.cases import (
    CORNERS,
    ODD_AFFINES,
    SEGMENTS,
    SHAPE,
    affine_of,
    case_of,
    decode,
    left_anterior_superior,
    red_place,
    report_text,
    upright,
    volume,
)

MOST_PAGE_BYTES = 1.5e6  # of a CT of 512 x 512 x 100 with many classes


def unpack(data, number=0):
    array = np.frombuffer(zlib.decompress(base64.b64decode(data["masks"][number])), np.uint8)
    return array.reshape(data["size"], order="F")


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
        expected = np.clip((image[..., k].T - low) / (high - low), 0, 1) * 255
        assert np.abs(sheet[top : top + height, left : left + width] - expected).max() <= 0.51


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
    slices = tall.data["kept"]
    assert len(slices) == tall.data["size"][2] == MOST_SLICES and (slices[0], slices[-1]) == (0, 499)
    assert set(np.diff(slices)) <= {3, 4} and f"{MOST_SLICES} of 500 axial slices" in " ".join(tall.notes)


@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 4, 1), (1, 5, 4), (4, 1, 5), (2, 300, 2), (1, 1, 200)])
@pytest.mark.parametrize("image", [True, False])
def test_any_shape_is_drawn(shape, image):
    picture = volume(shape=shape, affine=OBLIQUE)
    drawing = draw(picture if image else Picture(None, picture.masks, OBLIQUE), SEGMENTS)
    assert drawing.stills and all(max(decode(still).shape) <= STILL_SIDE for still in drawing.stills.values())
    assert drawing.data["axis"] in drawing.data["planes"]
    assert any("turned by up to" in note for note in drawing.notes)
    json.dumps(drawing.data, allow_nan=False)


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


def test_pictures_are_loaded_once_one_at_a_time_and_only_when_drawn(tmp_path):
    pictures: list[weakref.ref[Picture]] = []
    loaded: list[int | str] = []

    def load(name):
        assert not any(picture() for picture in pictures), "another case's picture is still in memory"
        picture = volume()
        pictures.append(weakref.ref(picture))
        loaded.append(name)
        return picture

    cases = [ReportCase(f"case{n}", "done", load=partial(load, n)) for n in range(5)]
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


@pytest.mark.slow
def test_a_ct_of_many_classes_is_small_enough(tmp_path):
    """Real tissue on a grid of 512 x 512 x 100, with noise, which is what costs bytes."""
    folder = SHARED / "data" / "totalsegmentator-example"
    if not folder.is_dir():
        pytest.skip(f"no data at {folder}; set SDSEG_SHARED")
    ct = load_nifti(folder / "example_ct.nii.gz").get_fdata(dtype=np.float32)
    mask = np.asarray(load_nifti(folder / "example_seg_fast_force_split.nii.gz").dataobj).astype(np.uint8)
    factors = np.array([512, 512, 100]) / ct.shape
    ct, mask = zoom(ct, factors, order=1), zoom(mask, factors, order=0)
    ct += np.random.default_rng(0).normal(0, 15, ct.shape).astype(np.float32)
    picture = Picture(ct[None], {"mask": mask}, np.diag([0.7, 0.6, 3.4, 1]))
    names = {value: Segment(f"organ {value}", (value, 255 - value, 90), None) for value in range(1, 105)}
    text = report_text(tmp_path, [case_of(picture)], segments=names)
    assert len(np.unique(mask)) > 50 and len(text.encode()) < MOST_PAGE_BYTES
