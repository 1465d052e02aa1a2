import json
import os
import runpy
import shutil
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from monai.bundle import ConfigParser
from PIL import Image

from common import SPLITS, deal_cases, read_split
from cvc import SEQUENCE_ENDS
from refuge2 import find_crop, prepare
from sdseg_monai.data import read_datalist
from sdseg_monai.io.pictures import read_picture, read_picture_mask
from sdseg_monai.io.volumes import read_volume
from sts import clean_label
from tests.makers.places import ROOT, SHARED
from tests.makers.processes import run_process
from tests.makers.volumes import load_nifti, write_case, write_nifti

PREPROCESSING = ROOT / "preprocessing"
CONFIGS = ROOT / "bundles" / "sdseg" / "configs"

MANIFESTS = sorted(path.stem for path in (PREPROCESSING / "splits").iterdir())


@pytest.fixture
def script(monkeypatch, capfd):
    """Run a script of preprocessing in this process; returns exit code, stdout, stderr."""

    def run(name, folder, *options):
        monkeypatch.setattr(sys, "argv", [name, "--dataset_dir", str(folder), *map(str, options)])
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(PREPROCESSING / f"{name}.py"), run_name="__main__")
        return end.value.code, *capfd.readouterr()

    return run


def cases_of(name):
    manifest = read_split(name)
    return [case for split in SPLITS for case in manifest[split]]


def read_counts(path):
    datalist = json.loads(path.read_text())
    return [len(datalist[split]) for split in SPLITS]


def files_of(folder):
    return {path.relative_to(folder): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def noise(case, shape=(6, 8, 3)):
    return np.random.default_rng(list(case.encode())).integers(0, 256, shape, dtype=np.uint8)


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)  # it may be a link to the template
    Image.fromarray(array).save(path)


def write_pairs(folder, cases, image, label, write_label):
    for case in cases:
        save(folder / image.format(case=case), noise(case))
        write_label(folder / label.format(case=case))


def write_white_corner(path, shape=(6, 8)):
    mask = np.zeros(shape, np.uint8)
    mask[2:5, 1:4] = 255
    save(path, mask)


def write_disc(path, shape=(6, 8), disc=slice(1, 6), cup=slice(2, 4)):
    regions = np.full(shape, 255, np.uint8)
    regions[1:5, disc] = 128
    regions[2:4, cup] = 0
    save(path, regions)


def write_btcv(folder):
    for case in cases_of("btcv_18_12"):
        write_case(folder / "raw", case, shape=(4, 4, 3), seed=int(case))
    for kind, name in (("images", "img"), ("labels", "label")):
        (folder / name).mkdir()
        for path in (folder / "raw" / kind).iterdir():
            path.rename(folder / name / f"{name}{path.name}")


def write_sts(folder):
    for case in cases_of("sts_9_3"):
        write_case(folder / "raw", f"{case}_0000", shape=(14, 14, 8), seed=int(case[-2:]))
    (folder / "raw" / "images").rename(folder / "image")
    (folder / "raw" / "labels").rename(folder / "label")
    for path in (folder / "image").iterdir():
        volume = load_nifti(path)
        write_nifti(path, (volume.get_fdata() * 20).astype(np.int16), volume.affine)  # the ball: 2000 HU
    (folder / "labelled").mkdir()
    for name in ("image", "label"):
        (folder / name).rename(folder / "labelled" / name)


def write_cvc(folder):
    cases = cases_of("cvc_frames_488_62_62")
    write_pairs(folder, cases, "PNG/Original/{case}.png", "PNG/Ground Truth/{case}.png", write_white_corner)


def write_kvasir(folder):
    cases = [f"cju{number * 7919:06d}" for number in range(1000)]  # ids of no order, like the published ones
    write_pairs(folder, cases, "images/{case}.jpg", "masks/{case}.jpg", write_white_corner)


def write_refuge2(folder):
    masks = "Disc_Cup_Masks"
    glaucoma = [f"g{number:04d}" for number in range(1, 41)]
    healthy = [f"n{number:04d}" for number in range(1, 361)]
    for cases, images, labels in (
        (glaucoma, "Training400/Glaucoma", f"Annotation-Training400/{masks}/Glaucoma"),
        (healthy, "Training400/Non-Glaucoma", f"Annotation-Training400/{masks}/Non-Glaucoma"),
        ([f"V{n:04d}" for n in range(1, 401)], "REFUGE-Validation400", f"REFUGE-Validation400-GT/{masks}"),
        ([f"T{n:04d}" for n in range(1, 41)], "Test400", f"REFUGE-Test-GT/{masks}/G"),
        ([f"T{n:04d}" for n in range(41, 401)], "Test400", f"REFUGE-Test-GT/{masks}/N"),
    ):
        write_pairs(folder, cases, images + "/{case}.jpg", labels + "/{case}.bmp", write_disc)
    save(folder / "Annotation-Training400" / masks / "Illustration" / "g0001.jpg", noise("illustration"))


WRITERS = {"btcv": write_btcv, "sts": write_sts, "cvc": write_cvc, "kvasir": write_kvasir, "refuge2": write_refuge2}


@pytest.fixture(scope="module")
def templates(tmp_path_factory):
    """Each dataset complete and tiny, in the download's own layout and names, made once."""
    folders = {}

    def make(name):
        if name not in folders:
            folders[name] = tmp_path_factory.mktemp(name)
            WRITERS[name](folders[name])
        return folders[name]

    return make


@pytest.fixture
def download(templates, tmp_path):
    """A copy of a dataset of its own, made of links: unlink a file before writing it anew."""
    return lambda name: shutil.copytree(templates(name), tmp_path / name, copy_function=os.link)


@pytest.mark.parametrize(
    ("name", "options", "counts", "first_test"),
    [
        ("btcv", [], [15, 3, 12], ("img/img0001.nii.gz", "label/label0001.nii.gz")),
        ("sts", [], [7, 2, 3], ("labelled/image/Teeth_0010_0000.nii.gz", "labelled/label/Teeth_0010_0000.nii.gz")),
        ("cvc", [], [488, 62, 62], ("PNG/Original/68.png", "PNG/Ground Truth/68.png")),
        ("cvc", ["--split", "cvc_frames_488_62_62"], [488, 62, 62], None),
        ("kvasir", [], [800, 100, 100], None),
        ("refuge2", [], [720, 80, 400], ("Test400/T0001.jpg", "cup_crop_none/masks/T0001.png")),
    ],
)
def test_a_whole_download_gets_its_split(download, script, name, options, counts, first_test):
    folder = download(name)
    before = files_of(folder)
    code, out, _ = script(name, folder, *options, "--dry-run")
    assert code == 0 and "nothing written" in out
    assert files_of(folder) == before

    code, out, err = script(name, folder, *options)
    assert code == 0 and "no split" not in out and "warning" not in err
    assert read_counts(folder / "datalist.json") == counts
    assert before.items() <= files_of(folder).items()  # nothing of the download is replaced
    test = read_datalist(folder / "datalist.json", "test", folder, "")  # every file is there, no case twice
    if first_test:
        assert test[0] == {"image": str(folder / first_test[0]), "label": str(folder / first_test[1])}


FAULTY = {
    "btcv": ("label/label{}.nii.gz", "0001 0007 0010 0040"),
    "sts": ("labelled/label/Teeth_{}_0000.nii.gz", "0001 0002 0007 0012"),
    "cvc": ("PNG/Ground Truth/{}.png", "1 25 26 612"),
    "kvasir": ("masks/{}.jpg", "cju000000 cju007919 cju015838 cju023757"),
    "refuge2": ("REFUGE-Validation400-GT/Disc_Cup_Masks/{}.bmp", "V0001 V0002 V0399 V0400"),
}


@pytest.mark.parametrize("name", FAULTY)
def test_every_fault_is_named_in_one_line(download, script, name):
    folder = download(name)
    pattern, cases = FAULTY[name]
    missing, misshapen, other_values, damaged = (folder / pattern.format(case) for case in cases.split())
    if ".nii.gz" in pattern:
        shape, affine = load_nifti(missing).shape, load_nifti(missing).affine
        misshapen.unlink()
        write_nifti(misshapen, np.zeros((*shape[:2], shape[2] + 1), np.uint8), affine)
        other_values.unlink()
        write_nifti(other_values, np.full(shape, 14, np.uint8), affine)
    else:
        write = write_disc if name == "refuge2" else write_white_corner
        write(misshapen, shape=(7, 8))
        save(other_values, np.full((6, 8), 2, np.uint8))  # a class number
    missing.unlink()
    content = damaged.read_bytes()
    damaged.unlink()
    damaged.write_bytes(content[: len(content) // 2])
    before = files_of(folder)

    code, out, err = script(name, folder)
    message = err.splitlines()[-1]
    assert code == 2 and out == "" and message.startswith("error: ")
    assert "files are missing: " in message and missing.name in message
    for path in (misshapen, other_values, damaged):
        assert f"{path}: " in message
    assert files_of(folder) == before


@pytest.mark.parametrize("name", FAULTY)
def test_a_folder_of_something_else_is_refused(script, tmp_path, name):
    code, _, err = script(name, tmp_path)
    assert code == 2 and f"{tmp_path}: no images found, expected " in err
    code, _, err = script(name, tmp_path / "nowhere")
    assert code == 2 and "no dataset folder at" in err


def test_images_beyond_the_split_are_counted(download, script):
    folder = download("cvc")
    save(folder / "PNG/Original/613.png", noise("613"))
    code, out, _ = script("cvc", folder)
    assert code == 0 and "62 test, 1 images in no split" in out


def test_cases_of_other_names_are_listed(download, script):
    folder = download("btcv")
    (folder / "img/img0040.nii.gz").rename(folder / "img/img0061.nii.gz")
    code, _, err = script("btcv", folder)
    assert code == 2
    assert "1 of 60 files are missing: img/img0040.nii.gz; in no split: img/img0061.nii.gz" in err


def test_equal_images_in_two_splits_are_reported(download, script):
    folder = download("btcv")
    (folder / "img/img0001.nii.gz").unlink()
    os.link(folder / "img/img0005.nii.gz", folder / "img/img0001.nii.gz")
    code, _, err = script("btcv", folder)
    assert code == 0
    assert "warning: equal images in two splits: img/img0005.nii.gz in training is img/img0001.nii.gz in test" in err


def test_a_kvasir_download_of_another_size_is_refused(download, script):
    folder = download("kvasir")
    (folder / "images/cju000000.jpg").unlink()
    code, _, err = script("kvasir", folder)
    assert code == 2 and "999 images found, expected the 1000 of the split kvasir_800_100_100" in err


def test_a_dealt_split_depends_on_the_names_alone():
    manifest = {"name": "x", "training": 5, "validation": 2, "test": 3}
    names = [f"case{number}" for number in range(10)]
    dealt = deal_cases(manifest, names)
    assert dealt == deal_cases(manifest, names[::-1])
    assert [len(dealt[split]) for split in SPLITS] == [5, 2, 3]
    assert sorted(case for cases in dealt.values() for case in cases) == names and list(dealt["training"]) != names[:5]


@pytest.mark.parametrize("name", MANIFESTS)
def test_manifests_say_what_they_are_and_hold_no_case_twice(name):
    manifest = read_split(name)
    assert manifest["name"] == name and manifest["description"] and manifest["licence"]
    if isinstance(manifest["training"], list):
        cases = cases_of(name)
        assert len(cases) == len(set(cases)) and all(manifest[split] for split in SPLITS)


def sequences_of(split):
    return {int(np.searchsorted(SEQUENCE_ENDS, int(frame))) for frame in split}


def test_cvc_sequences_stay_on_one_side_and_frames_do_not():
    assert len(SEQUENCE_ENDS) == 29 and all(end < next_end for end, next_end in pairwise(SEQUENCE_ENDS))
    for name, leaks in (("cvc_sequences_488_62_62", False), ("cvc_frames_488_62_62", True)):
        manifest = read_split(name)
        assert sorted(map(int, cases_of(name))) == list(range(1, 613))
        training, validation, test = (sequences_of(manifest[split]) for split in SPLITS)
        assert bool(training & test) is leaks and bool(training & validation) is leaks


def write_metadata(folder, ends, column="png_image_path"):
    rows = [f"{frame},{int(np.searchsorted(ends, frame)) + 1},PNG/Original/{frame}.png" for frame in range(1, 613)]
    (folder / "metadata.csv").write_text("\n".join([f"frame_id,sequence_id,{column}", *rows]) + "\n")


def test_cvc_sequences_are_compared_with_the_downloads_own(download, script):
    folder = download("cvc")
    write_metadata(folder, SEQUENCE_ENDS)
    assert script("cvc", folder, "--dry-run")[0] == 0
    write_metadata(folder, (24, *SEQUENCE_ENDS[1:]))
    code, _, err = script("cvc", folder, "--dry-run")
    assert code == 2 and "metadata.csv: sequences end at the frames (24, 50, " in err
    write_metadata(folder, SEQUENCE_ENDS, column="path")
    code, _, err = script("cvc", folder, "--dry-run")
    assert code == 2 and "expected the columns png_image_path and sequence_id" in err


def test_cleaning_removes_specks_and_what_lies_outside_the_field_of_view():
    image = np.full((12, 12, 12), 100.0)
    image[:, :, 0] = -1000  # outside
    label = np.zeros((12, 12, 12))
    label[1:5, 1:5, 2:6] = 1  # 64 voxels
    label[8:12, 8:12, 2:6] = 1
    label[8, 8, 2] = 0  # 63 voxels
    label[1, 1, 0:2] = 1  # joined to the first, half of it outside
    expected = np.zeros_like(label)
    expected[1:5, 1:5, 2:6] = 1
    expected[1, 1, 1] = 1
    cleaned = clean_label(image, label)
    assert cleaned.dtype == np.uint8
    np.testing.assert_array_equal(cleaned, expected)
    label[7, 7, 1] = 1  # a corner neighbour of nothing: the voxel between them is missing
    label[8, 8, 2] = 1  # now it is joined by corners: 64 + 1
    assert clean_label(image, label).sum() == expected.sum() + 65


def test_sts_cleans_training_labels_only(download, script):
    folder = download("sts")
    for case in ("0001", "0007", "0010"):
        path = folder / f"labelled/label/Teeth_{case}_0000.nii.gz"
        volume = load_nifti(path)
        label = np.asarray(volume.dataobj).copy()
        label[0, 0, 0] = 1  # a speck
        path.unlink()
        write_nifti(path, label, volume.affine)
    assert script("sts", folder)[0] == 0
    datalist = json.loads((folder / "datalist.json").read_text())
    assert {Path(item["label"]).parent.name for item in datalist["training"]} == {"label_cleaned"}
    assert {Path(item["label"]).parent.name for item in datalist["validation"] + datalist["test"]} == {"label"}
    original = read_volume(folder / "labelled/label/Teeth_0001_0000.nii.gz")
    cleaned = read_volume(folder / "labelled/label_cleaned/Teeth_0001_0000.nii.gz")
    np.testing.assert_array_equal(cleaned.affine, original.affine)
    assert original.array[0, 0, 0] == 1 and cleaned.array[0, 0, 0] == 0
    assert original.array.sum() - cleaned.array.sum() == 1


def test_sts_scaled_to_one_is_refused(download, script):
    folder = download("sts")
    path = folder / "labelled/image/Teeth_0003_0000.nii.gz"
    volume = load_nifti(path)
    scaled = volume.get_fdata() / 3000
    path.unlink()
    write_nifti(path, scaled.astype(np.float32), volume.affine)
    code, _, err = script("sts", folder)
    assert code == 2 and f"{path}: its highest value is 0." in err and "expected teeth above 500 HU" in err


@pytest.mark.parametrize(
    ("crop", "columns"),
    [("none", slice(0, 1000)), ("disc", slice(110, 910))],  # the disc's middle, 510, comes to lie at 400
)
def test_refuge2_writes_the_cup_and_its_photograph(tmp_path, crop, columns):
    save(tmp_path / "T0041.png", noise("wide", (7, 1000, 3)))
    write_disc(tmp_path / "T0041.bmp", (7, 1000), disc=slice(500, 521), cup=slice(505, 508))
    item = prepare(tmp_path, "test", {"image": "T0041.png", "label": "T0041.bmp"}, crop)
    image = "cup_crop_disc/images/T0041.png" if crop == "disc" else "T0041.png"
    assert item == {"image": image, "label": f"cup_crop_{crop}/masks/T0041.png"}
    np.testing.assert_array_equal(read_picture(tmp_path / image), read_picture(tmp_path / "T0041.png")[:, :, columns])
    cup = np.zeros((7, 1000), bool)
    cup[2:4, 505:508] = True
    np.testing.assert_array_equal(read_picture_mask(tmp_path / item["label"]), cup[:, columns])


@pytest.mark.slow
def test_refuge2_crops_say_that_they_leak(download, script):
    folder = download("refuge2")
    assert script("refuge2", folder, "--crop", "disc")[0] == 0
    datalist = json.loads((folder / "datalist.json").read_text())
    assert "test labels leak" in datalist["crop"]
    assert datalist["test"][0]["image"] == "cup_crop_disc/images/T0001.png"


@pytest.mark.parametrize(("corner", "expected"), [(0, slice(0, 10)), (37, slice(30, 40)), (20, slice(16, 26))])
def test_a_crop_stays_inside_the_photograph(corner, expected):
    regions = np.full((40, 60), 255)
    regions[corner : corner + 3, 50:52] = 128
    assert find_crop(regions, 10) == (expected, slice(46, 56))
    assert find_crop(regions, 50) == (slice(0, 40), slice(10, 60))


def test_two_files_of_one_case_are_refused(download, script):
    folder = download("refuge2")
    save(folder / "copy/T0001.jpg", noise("copy"))
    code, _, err = script("refuge2", folder)
    assert code == 2 and "Test400/T0001.jpg and copy/T0001.jpg are both case T0001" in err


@pytest.mark.parametrize("dataset", ["sts", "cvc", "kvasir", "refuge2"])
def test_overlays_change_the_dataset_only(dataset):
    load = ConfigParser.load_config_files
    plain = load(str(CONFIGS / "train.json"))
    overlay = json.loads((CONFIGS / "datasets" / f"{dataset}.json").read_text())
    assert set(overlay) <= set(plain)
    files = [str(CONFIGS / "train.json"), str(CONFIGS / "datasets" / f"{dataset}.json")]
    merged = load(files)
    flips = merged["augmentation"]["transforms"]
    assert [flip["spatial_axis"] for flip in flips] == ([0] if dataset == "sts" else [0, 1])
    assert merged["train"]["trainer"] == plain["train"]["trainer"]
    assert f"preprocessing/{dataset}.py" in merged["how_to_get_data"] and (PREPROCESSING / f"{dataset}.py").is_file()


@pytest.mark.parametrize(
    ("dataset", "slices"), [("cvc", 488), ("kvasir", 800), ("refuge2", 720), ("sts", 4 * 200 + 2 * 300 + 705)]
)
def test_overlays_make_the_papers_100000_steps(dataset, slices):
    overlay = json.loads((CONFIGS / "datasets" / f"{dataset}.json").read_text())
    assert slices // 4 * overlay["epochs"] == pytest.approx(100_000, rel=1e-3)


@pytest.mark.slow
@pytest.mark.shared
def test_kvasir_850_is_the_shared_copy(script, tmp_path):
    folder = SHARED / "data" / "kvasir-seg-256"
    if not folder.is_dir():
        pytest.skip(f"no data at {folder}; set SDSEG_SHARED")
    code, out, err = script("kvasir", folder, "--split", "kvasir_850", "--output", tmp_path / "d.json")
    assert code == 0 and "no split" not in out and "warning" not in err
    assert read_counts(tmp_path / "d.json") == [680, 85, 85]


@pytest.mark.slow
@pytest.mark.shared
def test_hippocampus_datalist_is_the_embedded_one(hippocampus, tmp_path):
    process = run_process(
        *("python", "preprocessing/hippocampus.py", "--dataset_dir", hippocampus, "--output", tmp_path / "d.json")
    )
    assert process.returncode == 0, process.stderr
    embedded = ROOT / "bundles" / "hippocampus_sdseg" / "configs" / "datalist.json"
    assert json.loads((tmp_path / "d.json").read_text()) == json.loads(embedded.read_text())
