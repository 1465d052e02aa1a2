"""Small volumes on difficult grids, and files that must be refused."""

import gzip
import os
import struct
from pathlib import Path

import nibabel as nib
import numpy as np
import psutil
import SimpleITK as sitk
from scipy.ndimage import zoom

from sdseg_monai.demo.phantom import make_phantom
from sdseg_monai.io.memory import READING_BYTES

OBLIQUE = np.array([[0.9, 0.2, 0.1, -20.0], [-0.25, 1.1, 0.3, 31.0], [0.05, -0.3, 1.6, 7.0], [0, 0, 0, 1]])


def load_nifti(path: str | Path) -> nib.Nifti1Image:
    """Return a file of NIfTI-1, and no other kind."""
    return nib.Nifti1Image.from_filename(path)


def write_nifti(path: str | Path, array: np.ndarray, affine: np.ndarray | None = None) -> Path:
    """Write an array [X, Y, Z], with voxels of 1 mm along the axes unless there is an affine; return the path."""
    nib.save(nib.Nifti1Image(array, np.eye(4) if affine is None else affine), path)
    return Path(path)


def write_thick_phantom(image: Path, label: Path, seed: int = 0) -> None:
    """Write a phantom as the demo's, but with coronal slices 3 mm thick: the network segments a third as many."""
    for path, array in zip((image, label), make_phantom(seed), strict=True):
        thick = nib.Nifti1Image(array[:, ::3], np.diag([1, 3, 1, 1]))
        thick.set_sform(thick.affine, code="scanner")
        nib.save(thick, path)


def write_case(folder: Path, name: str, shape=(18, 20, 6), affine=OBLIQUE, seed=0, dtype=np.int16) -> None:
    """Write a volume with a bright ball in noise to ``folder``/images and its label to ``folder``/labels."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), -1)
    centre = np.array(shape) / 2 + rng.uniform(-2, 2, 3)
    ball = np.linalg.norm((grid - centre) / (np.array(shape) / 3), axis=-1) < 1
    image = rng.normal(0, 10, shape) + 100 * ball
    for kind, array in (("images", image.astype(dtype)), ("labels", ball.astype(np.uint8))):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        write_nifti(folder / kind / f"{name}.nii.gz", array, affine)


def write_crop(folder: Path, name: str, shape=(18, 26, 18), affine=None, seed=0, dtype=np.int16) -> None:
    """Write what :func:`write_case` does, but the demo's phantom in ``shape``: to the shipped weights a hippocampus."""
    image, label = make_phantom(seed)
    scale = np.divide(shape, image.shape)
    affine = np.diag([*1 / scale, 1]) if affine is None else affine
    for kind, array in (("images", zoom(image, scale, order=1).astype(dtype)), ("labels", zoom(label, scale, order=0))):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        write_nifti(folder / kind / f"{name}.nii.gz", array, affine)


def bad_files(folder):
    """Write one file of each kind that must be refused; yields (path, what the message must say)."""

    def save(name, array, affine=OBLIQUE):
        write_nifti(folder / name, array, affine)
        return folder / name

    good = save("good.nii.gz", np.random.default_rng(0).normal(0, 100, (20, 20, 20)).astype(np.float32))
    yield folder / "missing.nii.gz", "no such file"
    (folder / "truncated.nii.gz").write_bytes(good.read_bytes()[:9000])
    yield folder / "truncated.nii.gz", "truncated or damaged"
    (folder / "text.nii.gz").write_text("this is no volume\n" * 50)
    yield folder / "text.nii.gz", "not a readable NIfTI"
    (folder / "empty.nii.gz").write_bytes(b"")
    yield folder / "empty.nii.gz", "empty"
    yield save("flat.nii.gz", np.zeros((8, 8), np.float32)), "2-D"
    yield save("time.nii.gz", np.zeros((8, 8, 8, 2), np.float32)), "4-D"
    yield save("zero.nii.gz", np.zeros((8, 0, 8), np.float32)), "empty axis"
    header = bytearray(gzip.decompress(good.read_bytes()))
    struct.pack_into("<4h", header, 40, 3, 30000, 30000, 30000)
    (folder / "huge.nii.gz").write_bytes(gzip.compress(bytes(header)))
    yield folder / "huge.nii.gz", "30000 x 30000 x 30000"
    (folder / "huge.nii").write_bytes(bytes(header))
    yield folder / "huge.nii", "30000 x 30000 x 30000"
    edge = int((psutil.virtual_memory().total / READING_BYTES) ** (1 / 3)) + 1  # as many zeros would pack well enough
    struct.pack_into("<4h", header, 40, 3, edge, edge, edge)
    (folder / "bomb.nii.gz").write_bytes(gzip.compress(bytes(header) + os.urandom(edge**3 // 100)))
    yield folder / "bomb.nii.gz", f"{edge} x {edge} x {edge} voxels"
    nan = np.zeros((4, 4, 4), np.float32)
    nan[0, 0, 0], nan[1, 1, 1] = np.nan, np.inf
    yield save("nan.nii.gz", nan), "2 of 64 voxels are NaN"
    singular = OBLIQUE.copy()
    singular[:, 2] = singular[:, 1]
    yield save("singular.nii.gz", np.zeros((4, 4, 4), np.float32), singular), "singular"
    yield save("colour.nii.gz", np.zeros((4, 4, 4), [("R", "u1"), ("G", "u1"), ("B", "u1")])), "one real number"
    flipped = bytearray(good.read_bytes())
    flipped[len(flipped) // 2] ^= 4
    (folder / "flipped.nii.gz").write_bytes(flipped)
    yield folder / "flipped.nii.gz", "truncated or damaged"
    plain = bytearray(gzip.decompress(good.read_bytes()))
    struct.pack_into("<f", plain, 108, 0)
    (folder / "offset.nii").write_bytes(plain)
    yield folder / "offset.nii", "within the header"
    yield save("extreme.nii.gz", np.array([[[-3e38, 3e38]]], np.float32)), "3e\\+38"
    image = sitk.GetImageFromArray(np.random.default_rng(0).normal(size=(9, 9, 9)).astype(np.float32))
    for name in ("flipped.mha", "flipped.nrrd"):
        sitk.WriteImage(image, str(folder / name), True)
        data = bytearray((folder / name).read_bytes())
        data[-len(data) // 4] ^= 4
        (folder / name).write_bytes(data)
        yield folder / name, "truncated or damaged"
    for name, value in (("elsewhere.mha", "other.raw"), ("dimensions.mha", "LOCAL")):
        dimensions = -3 if name == "dimensions.mha" else 3
        text = f"ObjectType = Image\nNDims = {dimensions}\nDimSize = 2 2 2\nElementType = MET_FLOAT\n"
        (folder / name).write_bytes(f"{text}ElementDataFile = {value}\n".encode() + bytes(32))
        yield folder / name, "in another file" if dimensions == 3 else "header is damaged"
    nrrd = "NRRD0004\ntype: float\ndimension: 3\nspace: left-posterior-superior\nsizes: 2 2 2\nencoding: raw\n"
    nrrd += "space directions: (1,0,0) (2,0,0) (0,0,1)\nspace origin: (0,0,0)\nendian: little\n\n"
    (folder / "singular.nrrd").write_bytes(nrrd.encode() + bytes(32))
    yield folder / "singular.nrrd", "singular"
    (folder / "text.nrrd").write_text("no nrrd")
    yield folder / "text.nrrd", r"not a readable \.nrrd"
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((4, 4, 4), np.float32)), str(folder / "good.mha"))
    (folder / "truncated.mha").write_bytes((folder / "good.mha").read_bytes()[:-100])
    yield folder / "truncated.mha", "truncated or damaged"
    yield folder / "image.png", "unknown kind of file"


def write_seg_nrrd(
    path: Path, array: np.ndarray, affine: np.ndarray, names: dict[int, str], layers: dict[int, int] | None = None
) -> Path:
    """Write label map [X, Y, Z] with the fields of 3D Slicer's segments, by the values of the classes; return the path.

    Args:
        path: file to write, which ends in ``.seg.nrrd``.
        array: voxels.
        affine: to RAS+ millimetres.
        names: names of the segments, by their values.
        layers: layer of a segment, by its value; 0 where it is not given.
    """
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.astype(np.uint8).T))
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    for number, (value, name) in enumerate(names.items()):
        fields = {
            "ID": f"Segment_{number + 1}",
            "LabelValue": value,
            "Layer": (layers or {}).get(value, 0),
            "Name": name,
        }
        for field, content in fields.items():
            image.SetMetaData(f"Segment{number}_{field}", str(content))
    image.SetMetaData("Segmentation_ContainedRepresentationNames", "Binary labelmap|")
    sitk.WriteImage(image, str(path), True)
    return path
