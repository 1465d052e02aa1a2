"""Images to draw, with known voxels and positions."""

import base64
import io

import nibabel as nib
import numpy as np
from nibabel.orientations import axcodes2ornt, inv_ornt_aff, ornt_transform
from PIL import Image

from sdseg_monai.io.segments import Segment
from sdseg_monai.report import Picture, ReportCase, write_report
from tests.makers.volumes import OBLIQUE

SEGMENTS = {1: Segment("front", (230, 159, 0), None), 2: Segment("back", (0, 114, 178), None)}
PAGE_AXES = {"axial": (0, 1, 2), "coronal": (0, 2, 1), "sagittal": (1, 2, 0)}  # to the page's left, up, across
SHAPE = (11, 14, 9)
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


def decode(uri):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))


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


def report_text(tmp_path, cases, **options):
    path = tmp_path / "report.html"
    write_report(path, **{"title": "A run", "about": {}, "segments": SEGMENTS, "cases": cases, **options})
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]
    return path.read_text("utf-8")
