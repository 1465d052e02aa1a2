"""Compare the positions of voxels by two readers, and check a file against the standard."""

import shutil
import subprocess
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from scipy.spatial import cKDTree

from sdseg_monai.io.formats.itk import LPS_TO_RAS
from sdseg_monai.io.volumes import Volume
from tests.makers.volumes import load_nifti

DCIODVFY = shutil.which("dciodvfy")


def in_space(voxels: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Return where voxels [X, Y, Z] that are not 0 lie in RAS millimetres and their values, [N, 4]."""
    indices = np.argwhere(voxels)
    return np.column_stack([nib.affines.apply_affine(matrix, indices), voxels[tuple(indices.T)]])


def seg_in_space(path: Path) -> np.ndarray:
    """Return the same of a SEG with its segments' numbers, by what each frame says of its own place."""
    seg = pydicom.dcmread(path)
    frames = seg.pixel_array.reshape(-1, seg.Rows, seg.Columns)
    shared = seg.SharedFunctionalGroupsSequence[0]
    row, column = np.reshape(shared.PlaneOrientationSequence[0].ImageOrientationPatient, (2, 3)).astype(float)
    height, width = map(float, shared.PixelMeasuresSequence[0].PixelSpacing)
    points = []
    for frame, groups in zip(frames, seg.PerFrameFunctionalGroupsSequence, strict=True):
        matrix = np.eye(4)
        matrix[:3, :2] = np.column_stack([row * width, column * height])
        matrix[:3, 3] = groups.PlanePositionSequence[0].ImagePositionPatient
        identified = groups if "SegmentIdentificationSequence" in groups else shared
        number = identified.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        points.append(in_space(frame.T[..., None] * np.uint8(number), LPS_TO_RAS @ matrix))
    return np.concatenate(points)


def assert_same_points(points: np.ndarray, other_points: np.ndarray) -> None:
    """Have two sets of places and values be the same to a hundredth of a millimetre."""
    assert len(points) == len(other_points)
    if len(points):
        distances, nearest = cKDTree(other_points).query(points)
        assert distances.max() < 0.01
        assert len(set(nearest)) == len(points)


def assert_same_volume(volume: Volume, path: Path) -> None:
    ours = nib.as_closest_canonical(nib.Nifti1Image(volume.array, volume.affine))
    theirs = nib.as_closest_canonical(load_nifti(path))
    np.testing.assert_array_equal(ours.get_fdata(), theirs.get_fdata())
    np.testing.assert_allclose(ours.affine, theirs.affine, atol=1e-5)


def assert_valid(path: Path) -> None:
    """Have dciodvfy check a SEG against the standard."""
    if DCIODVFY is None:
        pytest.skip("no dciodvfy here; Debian has it: apt install dicom3tools")
    result = subprocess.run([DCIODVFY, str(path)], capture_output=True, text=True)
    assert "Segmentation" in result.stderr.splitlines(), result.stderr
    assert "Error" not in result.stdout + result.stderr, result.stderr
