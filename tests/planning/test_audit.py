"""Dice between labels and decode(encode(label)): the library with known autoencoders, and ``sdseg audit``."""

import csv
import json
import shutil
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.bundle import ConfigParser
from PIL import Image
from torch.nn import functional as F

from autoencoder import audit_procedural, table_rows
from sdseg_monai.cli import main
from sdseg_monai.data import ProceduralMasks
from sdseg_monai.errors import InputError
from sdseg_monai.planning.audit import (
    SIZES,
    audit_label,
    by_size,
    count_strays,
    load_audit,
    loss_warnings,
    slice_dice,
    summarise_audit,
)
from sdseg_monai.weights import save_tensors
from tests.makers.places import ROOT
from tests.makers.volumes import OBLIQUE, write_case, write_nifti

BUNDLES = ROOT / "bundles"


class Exact:
    """An autoencoder that loses nothing: its latent is the mask image."""

    device = torch.device("cpu")

    def encode_latent(self, mask_image):
        return mask_image

    def decode(self, latent):
        return SimpleNamespace(sample=latent)


class Coarse(Exact):
    """An autoencoder of f=4 that keeps the mean of each block: a block that is less than half full is lost."""

    def encode_latent(self, mask_image):
        return F.avg_pool2d(mask_image, 4)

    def decode(self, latent):
        return SimpleNamespace(sample=F.interpolate(latent, scale_factor=4))


def audit(autoencoder, label, num_classes=2, size=(16, 16), slice_axis=2, latent_noise=(0,)):
    grid = {"num_classes": num_classes, "size": size, "slice_axis": slice_axis}
    return audit_label(autoencoder, label, "case", **grid, latent_noise=latent_noise)


def label_of(num_classes, shape=(16, 16, 5), seed=0):
    """Return a label [1, *shape] with every class, a procedural mask in each slice."""
    dataset = ProceduralMasks(shape[0], shape[2], seed, num_classes)
    return torch.stack([dataset[i]["label"] for i in range(shape[2])], dim=-1)


class TestLibrary:
    @pytest.mark.parametrize("num_classes", [2, 3, 14, 27])
    @pytest.mark.parametrize("slice_axis", [0, 1, 2])
    def test_an_exact_autoencoder_keeps_everything(self, num_classes, slice_axis):
        label = label_of(num_classes).movedim(-1, slice_axis + 1)
        result = audit(Exact(), label, num_classes, slice_axis=slice_axis)
        assert result and all(row.dice == 1 for row in result)
        sizes = {(row.slice, row.label): row.size for row in result}
        for value in label.unique().int().tolist():
            if value:
                assert sizes[None, value] == int((label == value).sum())
                of_slices = [n for (index, v), n in sizes.items() if v == value and index is not None]
                assert sum(of_slices) == sizes[None, value]
        assert {row.label for row in result} == set(label.unique().int().tolist()) - {0}

    def test_small_objects_are_lost_and_named(self):
        label = torch.zeros(1, 16, 16, 3)
        label[0, 4:8, 4:8, 0] = 1  # a block
        label[0, 5, 5, 1] = 1  # a pixel
        label[0, 0:3, 0:2, 2] = 1  # 6 of 16
        result = audit(Coarse(), label)
        assert [(r.slice, r.size, r.dice) for r in result[:3]] == [(0, 16, 1.0), (1, 1, 0.0), (2, 6, 0.0)]
        assert result[3].slice is None and result[3].dice == pytest.approx(2 * 16 / (16 + 23))
        summary = summarise_audit(result)["classes"][1]
        assert (summary["lost"], summary["largest_lost"], summary["smallest_kept"]) == (2, 6, 16)
        (line,) = loss_warnings(result)
        assert "class 1" in line and "2 of 3 slices" in line and "6 pixels of it (case case, slice 2)" in line
        assert line.endswith("the smallest that it keeps has 16")
        assert loss_warnings(audit(Exact(), label)) == []

    def test_what_the_decoder_makes_up_counts_as_wrong(self):
        label = torch.zeros(1, 16, 16, 2)
        label[0, :, :, 1] = 1

        class Inverting(Exact):
            def decode(self, latent):
                return SimpleNamespace(sample=-latent)

        result = audit(Inverting(), label)
        assert [(r.slice, r.size, r.dice) for r in result] == [(0, 0, 0.0), (1, 256, 0.0), (None, 256, 0.0)]
        assert summarise_audit(result)["classes"][1]["invented"] == 1

    def test_a_case_is_scored_on_its_own_grid(self):
        """The network's grid is half as fine: slices come back whole on it, the case does not."""
        label = torch.zeros(1, 32, 32, 1)
        label[0, 3:20, 5:18, 0] = 1
        result = audit(Exact(), label)
        assert result[0].dice == 1 and result[0].size < label.sum()
        assert 0.9 < result[1].dice < 1 and result[1].size == label.sum()

    def test_pixels_far_from_their_class_are_strays(self):
        predicted, expected = torch.zeros(2, 2, 1, 16, 16)
        expected[:, 0, 4, 4] = 2
        predicted[0, 0, 4, 4:14] = 2  # columns 9 to 13 are more than 4 from column 4
        predicted[1, 0, 8, 8] = 2
        predicted[1, 0, 0, 0] = 1
        assert count_strays(predicted, expected, 2) == [5, 0]
        assert count_strays(predicted, expected, 1) == [0, 1]

    def test_noise_of_the_latents_costs_dice_and_depends_on_the_slice_alone(self):
        label = label_of(3, (16, 16, 19))
        rows = audit(Exact(), label, 3, latent_noise=(0, 0.1, 3))
        assert all(row.dice == 1 and row.strays == 0 for row in rows if row.noise < 3)
        summary = summarise_audit(rows)["classes"][1]
        assert summary["dice"] == summary["latent_noise"][0]["dice"] == 1 and summary["strays"] == 0
        noisy = summary["latent_noise"][1]
        assert noisy["noise"] == 3 and noisy["dice"] < 0.9 and noisy["strays"] > 0
        slice_rows = [row for row in rows if row.slice is not None and row.noise == 3]
        assert noisy["strays"] == sum(row.strays for row in slice_rows if row.label == 1)
        assert rows == audit(Exact(), label, 3, latent_noise=(0, 0.1, 3))

    def test_batches_do_not_matter(self):
        label = label_of(3, (16, 16, 19))
        whole = [row for row in audit(Coarse(), label, 3) if row.slice is not None]
        single = [
            (index, row.label, row.size, row.dice)
            for index in range(19)
            for row in audit(Coarse(), label[..., index : index + 1], 3)
            if row.slice is not None
        ]
        assert [(row.slice, row.label, row.size, row.dice) for row in whole] == single

    @settings(max_examples=20, deadline=None)
    @given(st.integers(0, 10**6), st.integers(2, 5))
    def test_dice_is_symmetric_and_one_only_for_equal_masks(self, seed, num_classes):
        rng = torch.Generator().manual_seed(seed)
        mask, other_mask = (torch.randint(num_classes, (2, 1, 4, 4), generator=rng) for _ in range(2))
        for a, b, first, second in zip(
            slice_dice(mask, other_mask, num_classes),
            slice_dice(other_mask, mask, num_classes),
            mask,
            other_mask,
            strict=True,
        ):
            assert {v: dice for v, (_, dice) in a.items()} == {v: dice for v, (_, dice) in b.items()}
            for value, (size, dice) in a.items():
                assert size == int((second == value).sum()) and 0 <= dice <= 1
                assert (dice == 1) == torch.equal(first == value, second == value)

    def test_bins_hold_every_slice_once(self):
        result = audit(Coarse(), label_of(3, (16, 16, 30)), 3)
        bins = by_size(result)
        slices = [row for row in result if row.slice is not None and row.size]
        assert sum(b.count for b in bins) == len(slices)
        assert sum(b.count * b.dice for b in bins) == pytest.approx(sum(row.dice for row in slices))
        assert min(b.worst for b in bins) == min(row.dice for row in slices)
        assert all(b.smallest in SIZES for b in bins) and all(b.worst <= b.dice for b in bins)


@pytest.fixture
def bundle(tmp_path):
    """The hippocampus bundle's configs, three classes across the second axis, and a random autoencoder."""
    folder = tmp_path / "bundle"
    (folder / "models").mkdir(parents=True)
    (folder / "configs").symlink_to(BUNDLES / "hippocampus_sdseg" / "configs")
    parser = ConfigParser()
    parser.read_config(folder / "configs" / "train.json")
    torch.manual_seed(0)
    save_tensors(
        folder / "models" / "autoencoder.pt", parser.get_parsed_content("network_def#autoencoder").state_dict()
    )
    return folder


@pytest.fixture
def labels(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        array = np.zeros((20, 4, 18), np.uint8)
        array[4:12, :, 5:12] = 1
        array[12:16, 1:3, 5:12] = 2
        affine = OBLIQUE @ np.diag([rng.choice([-1, 1]), 1, 1, 1])
        (tmp_path / "labels").mkdir(exist_ok=True)
        write_nifti(tmp_path / "labels" / f"{name}.nii.gz", array, affine)
    return tmp_path / "labels"


def run(capsys, *arguments):
    """Return (exit code, stdout, stderr)."""
    code = main(["audit", "--device", "cpu", *(str(a) for a in arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


class TestCommand:
    def test_reports_every_class_and_writes_the_table(self, bundle, labels, tmp_path, capsys):
        code, out, err = run(capsys, "--labels", labels, "--bundle", bundle, "-o", tmp_path / "new" / "t.csv")
        report = json.loads(out)
        assert code == 0 and "Research use only" in err
        assert report["cases"] == 2 and report["classes"].keys() == {"1", "2"}
        assert report["weights"] == str(bundle / "models" / "autoencoder.pt") and report["size"] == [64, 64]
        rows = list(csv.DictReader((tmp_path / "new" / "t.csv").open()))
        assert {row["latent_noise"] for row in rows} == {"0", "0.1", "0.2"}
        by_case = [row for row in rows if row["slice"] == "" and row["class"] == "1" and row["latent_noise"] == "0"]
        assert [row["case"] for row in by_case] == ["a", "b"] and {row["size"] for row in by_case} == {str(8 * 4 * 7)}
        assert report["classes"]["1"]["dice"] == pytest.approx(
            np.mean([float(row["dice"]) for row in by_case]), abs=1e-5
        )
        slices = {(r["case"], r["slice"]) for r in rows if r["class"] == "2" and r["slice"] and int(r["size"])}
        assert slices == {(case, index) for case in "ab" for index in "12"}
        for value, summary in report["classes"].items():
            assert (f"warning: class {value}" in err) == bool(summary["lost"])

    def test_the_table_is_optional_and_stdout_is_one_line_of_json(self, bundle, labels, tmp_path, capsys):
        before = sorted(tmp_path.rglob("*"))
        code, out, _ = run(capsys, "--labels", labels, "--bundle", bundle)
        assert code == 0 and json.loads(out)["table"] is None and out.count("\n") == 1
        assert sorted(tmp_path.rglob("*")) == before

    def test_the_autoencoder_inside_a_trained_network(self, bundle, labels, capsys):
        _, expected, _ = run(capsys, "--labels", labels, "--bundle", bundle)
        own = bundle / "models" / "autoencoder.pt"
        state = torch.load(own, weights_only=True)
        inside = {f"autoencoder.{name}": tensor for name, tensor in state.items()}
        save_tensors(bundle / "models" / "model.pt", {**inside, "unet.conv_in.bias": torch.zeros(1)})
        own.unlink()
        code, out, _ = run(capsys, "--labels", labels, "--bundle", bundle)
        assert code == 0 and json.loads(out)["classes"] == json.loads(expected)["classes"]
        assert json.loads(out)["weights"].endswith("model.pt")
        exported = {name: tensor for name, tensor in inside.items() if ".decoder." in name}
        save_tensors(bundle / "models" / "model.pt", exported)
        code, out, err = run(capsys, "--labels", labels, "--bundle", bundle)
        assert (code, out) == (2, "") and "has no mask encoder" in err and err.count("\n") == 1

    def test_an_overlay_has_other_classes_and_weights(self, bundle, labels, tmp_path, capsys):
        folder = bundle / "models" / "other"
        folder.mkdir()
        (bundle / "models" / "autoencoder.pt").rename(folder / "autoencoder.pt")
        overlay = tmp_path / "overlay.json"
        overlay.write_text(json.dumps({"num_classes": 2, "ckpt_dir": "$@bundle_root + '/models/other'"}))
        code, out, _ = run(capsys, "--labels", labels, "--bundle", bundle, "--overlay", overlay)
        report = json.loads(out)
        assert code == 0 and report["weights"] == str(folder / "autoencoder.pt") and report["classes"].keys() == {"1"}

    def test_the_organs_overlay_names_the_weights_that_it_needs(self, labels, tmp_path, capsys):
        (tmp_path / "configs").symlink_to(BUNDLES / "sdseg" / "configs")
        overlay = BUNDLES / "sdseg" / "configs" / "classes" / "organs.json"
        code, out, err = run(capsys, "--labels", labels, "--bundle", tmp_path, "--overlay", overlay)
        assert (code, out) == (2, "") and err.count("\n") == 1
        assert all(str(tmp_path / "models" / "organs" / f"{name}.pt") in err for name in ("autoencoder", "model"))
        code, out, err = run(capsys, "--labels", labels, "--overlay", tmp_path / "none.json")
        assert (code, out) == (2, "") and "none.json: no such file" in err and err.count("\n") == 1

    def test_bad_input_ends_with_one_line_and_no_table(self, bundle, labels, tmp_path, capsys):
        (tmp_path / "empty").mkdir()
        write_case(tmp_path / "case", "a")
        beyond = tmp_path / "beyond"
        beyond.mkdir()
        write_nifti(beyond / "a.nii.gz", np.full((4, 4, 4), 3, np.uint8))
        nothing = tmp_path / "nothing"
        nothing.mkdir()
        write_nifti(nothing / "a.nii.gz", np.zeros((4, 4, 4), np.uint8))
        photographs = tmp_path / "photographs"
        photographs.mkdir()
        noise = np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(noise).save(photographs / "a.png")
        untrained = tmp_path / "untrained"
        (untrained / "models").mkdir(parents=True)
        (untrained / "configs").symlink_to(bundle / "configs")
        cases = [
            (("--labels", tmp_path / "empty", "--bundle", bundle), "no volumes or pictures there"),
            (("--labels", tmp_path / "none", "--bundle", bundle), "no folder at"),
            (("--labels", beyond, "--bundle", bundle), "a.nii.gz: a label of 3, expected 0 to 2"),
            (("--labels", nothing, "--bundle", bundle), "has any foreground"),
            (("--labels", tmp_path / "case" / "images", "--bundle", bundle), "is it an image?"),
            (("--labels", photographs, "--bundle", bundle), "a picture, but the bundle takes slices of volumes"),
            (("--labels", photographs, "--bundle", "sdseg"), "grey or coloured"),
            (("--labels", labels, "--bundle", untrained), "expected a trained mask autoencoder"),
            (("--labels", labels, "--bundle", tmp_path / "empty"), "no configs/inference.json"),
            (("--labels", labels, "--bundle", "nothing"), "no bundle of that name"),
        ]
        for arguments, match in cases:
            code, out, err = run(capsys, *arguments, "-o", tmp_path / "t.csv")
            assert (code, out) == (2, ""), match
            assert match in err and err.count("\n") == 1 and err.startswith("error: "), (match, err)
            assert not (tmp_path / "t.csv").exists()
        label = labels / "a.nii.gz"
        before = label.read_bytes()
        code, _, err = run(capsys, "--labels", labels, "--bundle", bundle, "-o", label)
        assert code == 2 and "is an input and would be replaced" in err and label.read_bytes() == before

    def test_orientation_does_not_matter(self, bundle, tmp_path, capsys):
        array = np.zeros((20, 8, 18), np.uint8)
        array[4:12, 2:7, 5:12] = 1
        array[12:15, 3:5, 5:9] = 2
        reports = []
        for name, axes in (("stored", (0, 1, 2)), ("turned", (2, 0, 1))):
            affine = np.eye(4)[:, [*axes, 3]]
            (tmp_path / name).mkdir()
            write_nifti(tmp_path / name / "a.nii.gz", array.transpose(axes), affine)
            code, out, _ = run(capsys, "--labels", tmp_path / name, "--bundle", bundle)
            assert code == 0
            reports.append(json.loads(out)["classes"])
        assert reports[0] == reports[1]


def test_procedural_masks_in_the_benchmark():
    exact: Any = SimpleNamespace(autoencoder=Exact(), size=(16, 16), num_classes=3)
    rows: list[list[Any]] = table_rows("masks", audit_procedural(exact, 20))
    assert {row[1] for row in rows} == {1, 2} and all(row[4:] == ["1.0000", "1.0000"] for row in rows)
    assert 20 <= sum(row[3] for row in rows) <= 40


def test_the_shipped_autoencoder_keeps_discs_of_a_picture(tmp_path):
    """The real thing: a binary bundle, photographs' masks, and what is known of its ceiling."""
    y, x = np.mgrid[:256, :256]
    for name, radius in (("large", 60), ("small", 12)):
        disc = np.hypot(y - 128, x - 100) < radius
        Image.fromarray((255 * disc).astype(np.uint8)).save(tmp_path / f"{name}.png")
    sdseg = load_audit("sdseg", "cpu")
    for name, dice in (("large", 0.98), ("small", 0.9)):
        result = sdseg.run(tmp_path / f"{name}.png")
        assert [(row.slice, row.noise) for row in result] == [(i, n) for n in (0, 0.1, 0.2) for i in (0, None)]
        assert all(row.case == name and row.label == 1 and row.dice > dice for row in result if row.noise < 0.2)


def test_a_picture_is_no_slice_of_a_volume(tmp_path):
    Image.fromarray(np.full((32, 32), 255, np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match="a picture, but the bundle takes slices of volumes"):
        load_audit("hippocampus_sdseg", "cpu").run(tmp_path / "a.png")


@pytest.mark.parametrize("values", [{"slice_axis": 3}, {"size": [0, 64]}, {"size": 64}])
def test_a_grid_that_is_none_is_refused(tmp_path, values):
    overlay = tmp_path / "overlay.json"
    overlay.write_text(json.dumps(values))
    with pytest.raises(InputError, match="expected two lengths in pixels, and 0, 1 or 2"):
        load_audit("hippocampus_sdseg", "cpu", [overlay])


def test_a_table_replaces_nothing_but_a_table(tmp_path, capsys):
    write_case(tmp_path, "a")
    weights = tmp_path / "autoencoder.pt"
    weights.write_bytes(b"weights")
    assert main(["audit", "--labels", str(tmp_path / "labels"), "-o", str(weights)]) == 2
    assert "ending in .csv" in capsys.readouterr().err and weights.read_bytes() == b"weights"
    shutil.copy(tmp_path / "labels" / "a.nii.gz", tmp_path / "labels" / "a.nii")
    assert main(["audit", "--labels", str(tmp_path / "labels"), "-o", str(tmp_path / "t.csv")]) == 2
    assert "has the same name, expected one file a case" in capsys.readouterr().err
    assert not (tmp_path / "t.csv").exists()
