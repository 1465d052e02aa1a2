"""Volumes with labels at known positions, as files and as SEGs, and checks of these positions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import highdicom as hd
import nibabel as nib
import numpy as np
import pydicom
from pydicom.sr.codedict import codes

from tests.makers.dicom import write_mr_series, write_noise
from tests.makers.volumes import load_nifti, write_nifti

SHAPE = (12, 10, 6)
SOON = 5  # seconds


def write_label(path: Path, image: Path, boxes: Mapping[int, tuple[slice, ...]], dtype=np.uint8) -> Path:
    """Write a label on the grid of ``image`` with boxes by value."""
    source = load_nifti(image)
    array = np.zeros(source.shape, dtype)
    for value, box in boxes.items():
        array[box] = value
    write_nifti(path, array, source.affine)
    return path


ONE_BOX = {1: np.s_[2:5, 3:7, 1:4]}
UPPER_BOX = {2: np.s_[2:5, 3:7, 1:4]}
TWO_BOXES = {1: np.s_[2:5, 3:7, 1:4], 2: np.s_[6:9, 1:5, 3:5]}


def voxels(path: str | Path) -> np.ndarray:
    return np.asarray(load_nifti(path).dataobj)


def points(path: str | Path, value: int) -> np.ndarray:
    """Return where the voxels of a value lie: RAS millimetres, sorted."""
    image = load_nifti(path)
    indices = np.argwhere(np.asarray(image.dataobj) == value)
    return sort_points(nib.affines.apply_affine(image.affine, indices))


def sort_points(positions: np.ndarray) -> np.ndarray:
    return positions[np.lexsort(np.round(positions, 2).T)]


def make_dicom(folder: Path, matrix: np.ndarray, name: str, **attributes: str) -> tuple[str, list[Path], Path]:
    """Write a series, files without suffix; return its UID, its files and the volume they were made of."""
    volume = write_noise(folder.parent / "volumes" / f"{name}.nii.gz", matrix, SHAPE)
    files = [file.rename(file.with_suffix("")) for file in write_mr_series(volume, folder / name, **attributes)]
    return str(pydicom.dcmread(files[0]).SeriesInstanceUID), files, volume


def read_seg(path: Path) -> hd.seg.Segmentation:
    return hd.seg.segread(path)


def check_seg(seg: hd.seg.Segmentation, label: Path, files: list[Path], numbers: dict[int, int]) -> None:
    """Check that segments (number by value) lie where the label's voxels do, and refer to the slices of ``files``."""
    volume = seg.get_volume(combine_segments=False)
    positions = np.argwhere(volume.array)
    for value, number in numbers.items():
        indices = positions[positions[:, 3] == number - 1][:, :3]
        seg_points = sort_points(volume.map_indices_to_reference(indices) * [-1, -1, 1])  # LPS to RAS
        assert np.allclose(seg_points, points(label, value), atol=1e-3)
    slices = {slice_.SOPInstanceUID: slice_ for slice_ in map(pydicom.dcmread, files)}
    for frame in seg.PerFrameFunctionalGroupsSequence:
        (source,) = frame.DerivationImageSequence[0].SourceImageSequence
        position = slices[source.ReferencedSOPInstanceUID].ImagePositionPatient
        assert np.allclose(frame.PlanePositionSequence[0].ImagePositionPatient, position, atol=1e-3)
    (reference,) = seg.ReferencedSeriesSequence
    first = pydicom.dcmread(files[0])
    assert reference.SeriesInstanceUID == first.SeriesInstanceUID
    for keyword in ("StudyInstanceUID", "PatientID", "PatientName", "FrameOfReferenceUID"):
        assert seg[keyword].value == first[keyword].value


def make_seg(path: Path, label: Path, files: list[Path], names: list[str], stacked: np.ndarray | None = None) -> Path:
    """Write a SEG as another program does: frames only where something is."""
    sources = [pydicom.dcmread(file) for file in files]
    mask = voxels(label).transpose(2, 1, 0) if stacked is None else stacked  # frames, rows, columns
    descriptions = [
        hd.seg.SegmentDescription(
            number,
            name,
            codes.SCT.Organ,
            codes.SCT.Liver,
            hd.seg.SegmentAlgorithmTypeValues.MANUAL,
        )
        for number, name in enumerate(names, 1)
    ]
    seg = hd.seg.Segmentation(
        sources,
        mask,
        hd.seg.SegmentationTypeValues.BINARY,
        descriptions,
        hd.UID(),
        series_number=7,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer="others",
        manufacturer_model_name="x",
        software_versions="1",
        device_serial_number="1",
        omit_empty_frames=True,
    )
    seg.save_as(path)
    return path


def find_segs(folder: Path) -> list[Path]:
    return sorted((folder / "labels" / "final").glob("*.dcm"))


def ordered(files: list[Path]) -> list[Path]:
    """Return slices in the order of the volume made of them: along their normal."""

    def height(file: Path) -> float:
        header = pydicom.dcmread(file, stop_before_pixels=True)
        axes = np.reshape(header.ImageOrientationPatient, (2, 3))
        return float(np.cross(*axes) @ np.array(header.ImagePositionPatient, dtype=float))

    return sorted(files, key=height)
