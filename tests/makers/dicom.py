"""Write volumes as DICOM series of MR."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid
from pydicom.valuerep import DSfloat
from scipy.spatial.transform import Rotation

from tests.makers.volumes import load_nifti, write_nifti


def slice_grid(directions: np.ndarray) -> np.ndarray:
    """Return the affine of slices whose axes have these directions, columns of [3, 3], each at a spacing of its own."""
    matrix = np.eye(4)
    matrix[:3, :3] = directions * [0.9, 1.2, 2.5]
    matrix[:3, 3] = -31.5, 12.25, 7.125
    return matrix


OBLIQUE = slice_grid(Rotation.from_euler("xyz", [25, -15, 40], degrees=True).as_matrix())
REVERSED = slice_grid(Rotation.from_euler("xyz", [5, 12, -8], degrees=True).as_matrix() @ np.diag([-1, -1, -1]))
SAGITTAL = slice_grid(np.array([[0.0, 0, 1], [1, 0, 0], [0, -1, 0]]))


def write_noise(path: Path, affine: np.ndarray, shape: tuple[int, ...], seed: int = 0) -> Path:
    """Write a volume of whole numbers, of which no two voxels are likely to be alike."""
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.random.default_rng(seed).integers(0, 4000, shape).astype(np.int16)
    return write_nifti(path, array, affine)


def write_mr_series(volume: Path, folder: Path, **attributes: object) -> list[Path]:
    """Write a NIfTI volume as an MR series, one file a slice along the third axis; ``attributes`` replace elements.

    Whole numbers of 16 bits stay as they are, other intensities are scaled to them. The axes must be orthogonal.
    """
    image = load_nifti(volume)
    array = np.asarray(image.dataobj, dtype=np.float64)  # [X, Y, Z]
    if array.min() < 0 or array.max() > 65535 or (array != np.rint(array)).any():
        array = (array - array.min()) / max(array.max() - array.min(), 1e-9) * 65535
    array = np.rint(array).astype(np.uint16)
    affine = np.diag([-1, -1, 1, 1]) @ image.affine  # to LPS
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    axes = affine[:3, :3] / spacing
    assert np.allclose(axes.T @ axes, np.eye(3), atol=1e-5), "DICOM slices cannot be sheared"
    series = Dataset()
    series.SOPClassUID = MRImageStorage
    series.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND"]
    series.Modality = "MR"
    series.PatientName, series.PatientID = "Hippocampus^Test", "TEST-1"
    series.PatientBirthDate, series.PatientSex = "19700101", "O"
    series.StudyDate, series.StudyTime = "20240102", "101500"
    series.SeriesDate, series.SeriesTime = series.ContentDate, series.ContentTime = "20240102", "101600"
    series.StudyID, series.AccessionNumber, series.ReferringPhysicianName = "1", "A1", ""
    series.StudyDescription, series.SeriesDescription, series.SeriesNumber = "Test study", "T1", 1
    series.Manufacturer, series.BodyPartExamined, series.PatientPosition = "tests", "HEAD", "HFS"
    series.ScanningSequence, series.SequenceVariant, series.ScanOptions = "GR", "NONE", ""
    series.MRAcquisitionType, series.EchoTime, series.RepetitionTime, series.EchoTrainLength = "3D", "4", "10", "1"
    series.PositionReferenceIndicator = ""
    for name in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
        setattr(series, name, generate_uid())
    series.ImageOrientationPatient = [DSfloat(cosine, auto_format=True) for cosine in axes[:, :2].T.ravel()]
    series.PixelSpacing = [DSfloat(edge, auto_format=True) for edge in spacing[[1, 0]]]  # of rows, of columns
    series.SliceThickness = series.SpacingBetweenSlices = DSfloat(spacing[2], auto_format=True)
    series.Columns, series.Rows = array.shape[:2]
    series.SamplesPerPixel, series.PhotometricInterpretation = 1, "MONOCHROME2"
    series.BitsAllocated, series.BitsStored, series.HighBit, series.PixelRepresentation = 16, 16, 15, 0
    low, high = np.percentile(array, (1, 99))
    series.WindowCenter, series.WindowWidth = (DSfloat(n, auto_format=True) for n in ((low + high) / 2, high - low + 1))
    for name, value in attributes.items():
        setattr(series, name, value)
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for index in range(array.shape[2]):
        path = folder / f"{index + 1:04}.dcm"
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = MRImageStorage, ExplicitVRLittleEndian
        dataset = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
        dataset.update(series)
        dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID = generate_uid()
        dataset.InstanceNumber = index + 1
        position = affine[:3, :3] @ [0, 0, index] + affine[:3, 3]
        dataset.ImagePositionPatient = [DSfloat(coordinate, auto_format=True) for coordinate in position]
        dataset.PixelData = np.ascontiguousarray(array[:, :, index].T).tobytes()
        pydicom.dcmwrite(path, dataset, enforce_file_format=True)
        files.append(path)
    return files
