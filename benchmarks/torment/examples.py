"""Good files of every kind that the package reads, small enough to be read in milliseconds."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import SimpleITK as sitk
import torch
from PIL import Image
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import UID as Uid
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage
from safetensors.torch import save_file

from sdseg_monai.bundle import bundles_dir
from sdseg_monai.demo.phantom import make_phantom
from sdseg_monai.io.dicom import choose_series, write_seg
from sdseg_monai.io.segments import Segment
from sdseg_monai.networks import DenoisingUNet, MaskAutoencoder, SDSeg, VisionEncoder

SHAPE = (9, 8, 5)  # voxels along X, Y, Z
AFFINE = np.array([[-0.9, 0, 0, 31.5], [0, 0, 1.2, -12.25], [0, 1.5, 0, 7.125], [0, 0, 0, 1]])  # to RAS mm
PICTURE_SIZE = (12, 10)  # width and height
UID = "1.2.826.0.1.3680043.8.498.1"
BUNDLE = "hippocampus_sdseg"
CASES = ("case_a", "case_b", "case_c")


def voxels(seed: int = 0) -> np.ndarray:
    """Return whole numbers [X, Y, Z], int16, of which hardly two are alike."""
    return np.random.default_rng(seed).integers(-1000, 3000, SHAPE).astype(np.int16)


def write_volume(path: Path, seed: int = 0) -> Path:
    """Write :func:`voxels` on an oblique order of axes as NIfTI, NRRD or MHA by the suffix; ITK's are compressed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.name.endswith((".nii", ".nii.gz")):
        image = nib.Nifti1Image(voxels(seed), AFFINE)
        image.header["descrip"], image.header["aux_file"], image.header["intent_name"] = b"a scan", b"none", b"an image"
        nib.save(image, path)
        return path
    lps = np.diag([-1, -1, 1, 1]) @ AFFINE
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    itk_image = sitk.GetImageFromArray(np.ascontiguousarray(voxels(seed).T))
    itk_image.SetOrigin(lps[:3, 3].tolist())
    itk_image.SetSpacing(spacing.tolist())
    itk_image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    itk_image.SetMetaData("Comment", "a scan")
    sitk.WriteImage(itk_image, str(path), useCompression="plain" not in path.name)
    return path


def write_phantom(path: Path, seed: int = 0) -> Path:
    """Write an artificial hippocampus, which the shipped bundle segments, as NIfTI, NRRD or MHA."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(np.ascontiguousarray(make_phantom(seed)[0].T))
    image.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))  # X to the right, Y to the front
    sitk.WriteImage(image, str(path))
    return path


def write_series(folder: Path) -> Path:
    """Write :func:`voxels` as an MR series of one file a slice."""
    folder.mkdir(parents=True, exist_ok=True)
    array = voxels() + 1000
    for index in range(SHAPE[2]):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = MRImageStorage, ExplicitVRLittleEndian
        meta.MediaStorageSOPInstanceUID = Uid(f"{UID}.{index + 1}")
        path = folder / f"{index + 1:04}.dcm"
        slice_ = FileDataset(str(path), _series_header(), file_meta=meta, preamble=b"\0" * 128)
        slice_.SOPInstanceUID, slice_.InstanceNumber = f"{UID}.{index + 1}", index + 1
        slice_.ImagePositionPatient = [-20, 12, 2.5 * index]
        slice_.PixelData = np.ascontiguousarray(array[:, :, index].T).tobytes()
        pydicom.dcmwrite(path, slice_, enforce_file_format=True)
    return folder


def _series_header() -> Dataset:
    header = Dataset()
    header.SOPClassUID, header.Modality, header.ImageType = MRImageStorage, "MR", ["ORIGINAL", "PRIMARY", "M", "ND"]
    header.PatientName, header.PatientID, header.PatientBirthDate, header.PatientSex = "Test^Case", "T1", "", ""
    header.StudyInstanceUID, header.SeriesInstanceUID, header.FrameOfReferenceUID = (f"{UID}.{n}" for n in "789")
    header.StudyDate = header.SeriesDate = header.ContentDate = "20240102"
    header.StudyTime = header.SeriesTime = header.ContentTime = "101500"
    header.StudyID, header.AccessionNumber, header.ReferringPhysicianName = "1", "A1", ""
    header.StudyDescription, header.SeriesDescription, header.SeriesNumber = "a study", "T1", 1
    header.Manufacturer, header.PatientPosition, header.PositionReferenceIndicator = "nobody", "HFS", ""
    header.ImageOrientationPatient, header.PixelSpacing, header.SliceThickness = [1, 0, 0, 0, 1, 0], [1.2, 0.9], 2.5
    header.Columns, header.Rows = SHAPE[:2]
    header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
    header.BitsAllocated, header.BitsStored, header.HighBit, header.PixelRepresentation = 16, 16, 15, 1
    return header


def write_picture(path: Path, mask: bool = False) -> Path:
    """Write a small photograph, or a mask in black and white."""
    rng = np.random.default_rng(0)
    width, height = PICTURE_SIZE
    array = rng.integers(0, 256, (height, width, 3)) if not mask else 255 * rng.integers(0, 2, (height, width))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array.astype(np.uint8)).save(path)
    return path


def make_network() -> SDSeg:
    """Return a network of the real classes with the smallest sizes and random weights."""
    torch.manual_seed(0)
    network = SDSeg(
        MaskAutoencoder([8, 16, 16], 1, 4, 4),
        VisionEncoder([8, 16, 16], 1, 4, 4),
        DenoisingUNet(8, 4, [16, 32], [False, True], 1, 4, 8),
    )
    network.scale_factor.fill_(0.5)
    return network


def _write_weights(folder: Path) -> None:
    torch.save(make_network().state_dict(), folder / "model.pt")


def _write_old_weights(folder: Path) -> None:
    torch.save({"state_dict": make_network().state_dict()}, folder / "old.ckpt", _use_new_zipfile_serialization=False)


def _write_safetensors(folder: Path) -> None:
    save_file(make_network().state_dict(), folder / "model.safetensors")


def _write_volume(name: str, folder: Path) -> None:
    write_volume(folder / name)


def _write_picture(name: str, folder: Path) -> None:
    write_picture(folder / name, mask=name.startswith("mask"))


def _write_images(folder: Path) -> None:
    for seed, case in enumerate(CASES):
        write_volume(folder / f"{case}.nii.gz", seed)


def _write_datalist(folder: Path) -> None:
    _write_images(folder)
    items = [{"image": f"{case}.nii.gz", "label": f"{case}.nii.gz"} for case in CASES]
    splits = {"training": items[:1], "validation": items[1:2], "test": items[2:]}
    (folder / "datalist.json").write_text(json.dumps({"name": "a study", **splits}, indent=1))


def _write_csv(folder: Path) -> None:
    _write_images(folder)
    rows = [f"{case}.nii.gz,patient {number},{number}.5\n" for number, case in enumerate(CASES)]
    (folder / "datalist.csv").write_text("image,patient,age\n" + "".join(rows))


def _write_manifest(folder: Path) -> None:
    _write_images(folder)
    case = {"status": "done", "input_sha256": "0" * 64, "seconds": 1.25, "warnings": [], "volume_ml": {"head": 1.5}}
    content = {"about": {"sdseg_monai": "0"}, "settings": {"seed": 0}, "cases": {f"{c}.nii.gz": case for c in CASES}}
    (folder / "sdseg_manifest.json").write_text(json.dumps(content, indent=1))


def write_bundle(root: Path) -> Path:
    """Write a bundle with the shipped one's configs and a file for its weights that is none."""
    shutil.copytree(bundles_dir() / BUNDLE / "configs", root / "configs")
    (root / "models").mkdir()
    (root / "models" / "model.pt").write_bytes(b"weights")
    return root


def _write_bundle(folder: Path) -> None:
    write_bundle(folder / "bundle")


def _write_overlay(folder: Path) -> None:
    content = {"size": [32, 32], "batch_size": 4, "network_def#start_noise": "zeros", "output_dir": "eval"}
    (folder / "overlay.json").write_text(json.dumps(content, indent=1))


def _write_yaml(folder: Path) -> None:
    (folder / "overlay.yaml").write_text("size: [32, 32]\nbatch_size: 4\noutput_dir: eval\n")


def _write_zip(folder: Path) -> None:
    root = write_bundle(folder / "unpacked" / "bundle")
    with zipfile.ZipFile(folder / "bundle.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(root.rglob("*.*")):
            archive.write(path, path.relative_to(root.parent))
    shutil.rmtree(folder / "unpacked")


def _write_series(folder: Path) -> None:
    write_series(folder / "series")


def _write_seg(folder: Path) -> None:
    series = choose_series(write_series(folder / "series"))
    labels = (voxels() > 1000).astype(np.uint8)
    write_seg(folder / "mask.dcm", labels, series, {1: Segment("head", (230, 159, 0), None)})


# of each kind: what writes its files into a folder, and which of them is mutated
WRITERS: dict[str, tuple[Callable[[Path], None], str]] = {
    "NIfTI": (partial(_write_volume, "volume.nii"), "volume.nii"),
    "NIfTI, gzip": (partial(_write_volume, "volume.nii.gz"), "volume.nii.gz"),
    "NRRD": (partial(_write_volume, "plain.nrrd"), "plain.nrrd"),
    "NRRD, gzip": (partial(_write_volume, "volume.nrrd"), "volume.nrrd"),
    "MHA": (partial(_write_volume, "plain.mha"), "plain.mha"),
    "MHA, zlib": (partial(_write_volume, "volume.mha"), "volume.mha"),
    "DICOM": (_write_series, "series/0002.dcm"),
    "DICOM SEG": (_write_seg, "mask.dcm"),
    "PNG": (partial(_write_picture, "photograph.png"), "photograph.png"),
    "JPEG": (partial(_write_picture, "photograph.jpg"), "photograph.jpg"),
    "TIFF": (partial(_write_picture, "photograph.tif"), "photograph.tif"),
    "BMP": (partial(_write_picture, "photograph.bmp"), "photograph.bmp"),
    "PNG mask": (partial(_write_picture, "mask.png"), "mask.png"),
    "datalist, JSON": (_write_datalist, "datalist.json"),
    "datalist, CSV": (_write_csv, "datalist.csv"),
    "manifest": (_write_manifest, "sdseg_manifest.json"),
    "bundle metadata": (_write_bundle, "bundle/configs/metadata.json"),
    "bundle config": (_write_bundle, "bundle/configs/inference.json"),
    "overlay, JSON": (_write_overlay, "overlay.json"),
    "overlay, YAML": (_write_yaml, "overlay.yaml"),
    "weights, torch": (_write_weights, "model.pt"),
    "weights, torch before 1.6": (_write_old_weights, "old.ckpt"),
    "weights, safetensors": (_write_safetensors, "model.safetensors"),
    "bundle, zip": (_write_zip, "bundle.zip"),
}
