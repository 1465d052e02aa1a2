"""Fixtures: a folder with every file that a page names."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from sdseg_monai.demo.heart import RADIUS, write_heart
from sdseg_monai.demo.pictures import write_fetal_head, write_skin_lesion
from sdseg_monai.planning import init_bundle
from tests.docs.folders import CASES, write_datalist, write_volumes, write_weights
from tests.docs.pages import DATASET, Page
from tests.makers.compvis import tiny_official
from tests.makers.dicom import write_mr_series
from tests.makers.photographs import write_photograph
from tests.makers.places import ROOT
from tests.makers.volumes import write_nifti


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What lies about before a page's first command: the reader's files, and the repository's bundles and scripts."""
    root = tmp_path_factory.mktemp("docs") / "template"
    write_volumes(root, CASES)
    for case in CASES[:2]:
        for source, folder in (("images", "scans"), ("labels", "masks")):
            (root / folder).mkdir(exist_ok=True)
            shutil.copy(root / source / f"{case}.nii.gz", root / folder)
    shutil.copy(root / "scans" / "case_0.nii.gz", root / "scan.nii.gz")
    write_mr_series(root / "scan.nii.gz", root / "STUDY")
    for uid in ("1.2.3.4", "1.2.3.5"):
        write_mr_series(root / "scan.nii.gz", root / "STUDIES" / uid, SeriesInstanceUID=uid)
    for name, edge in (("end_diastole", 8), ("end_systole", 6)):
        cavity = np.zeros((12, 12, 4), np.uint8)
        cavity[2:edge, 2:edge] = 1
        write_nifti(root / f"{name}.nii.gz", cavity)
    for name, write in (("skin", write_skin_lesion), ("womb", write_fetal_head)):
        (root / name).mkdir()
        _, drawn = write(root / name)
        drawn.unlink()
    for phase, radius in (("filled", RADIUS), ("emptied", 0.7 * RADIUS)):
        (root / phase).mkdir()
        heart, _ = write_heart(root / phase, radius)
        heart.rename(root / f"{phase}_heart.nii.gz")
    pictures = root / "data" / "Kvasir-SEG"
    for seed, name in enumerate(CASES):
        write_photograph(pictures, name, seed, size=(48, 56))
    shutil.copytree(pictures / "images", root / "photos")
    write_datalist(pictures / "datalist.json", "images/{}.png", "masks/{}.png")
    for kind, name in (("images", "img"), ("labels", "label")):
        shutil.copytree(root / kind, root / "btcv" / name)
        shutil.copytree(root / kind, root / DATASET / kind)
        shutil.copytree(root / kind, root / "data" / kind)
    for folder, image, label in (("btcv", "img", "label"), (DATASET, "images", "labels")):
        write_datalist(root / folder / "datalist.json", f"{image}/{{}}.nii.gz", f"{label}/{{}}.nii.gz")

    ignored = shutil.ignore_patterns("logs", "eval", "*checkpoint.pt")
    shutil.copytree(ROOT / "bundles", root / "bundles", ignore=ignored)
    for name in ("benchmarks", "preprocessing", "constraints.txt"):
        (root / name).symlink_to(ROOT / name)
    own, configs = root / "bundles" / "hippocampus_sdseg", root / "bundles" / "sdseg" / "configs"
    for name in ("A.pt", "B.pt", "other.pt"):
        shutil.copy(own / "models" / "model.pt", root / name)
    write_weights(root / "half" / "model.pt", own, own / "configs" / "recipe" / "half_width.json")
    write_weights(own / "logs" / "paper" / "model.pt", own, configs / "recipe" / "paper.json")
    shutil.copytree(own, root / "from_noise")
    config = root / "from_noise" / "configs" / "inference.json"
    content = json.loads(config.read_text())
    content["network_def"]["start_noise"] = "shared"
    config.write_text(json.dumps(content))
    folders = (pictures / "images", pictures / "masks", root / "polyps")
    init_bundle(*folders, minutes=0.01, seconds_per_slice=0.1, progress=False)
    write_weights(root / "polyps" / "models" / "model.pt", root / "polyps")
    torch.save({"state_dict": tiny_official()}, root / "official.ckpt")
    return root


@pytest.fixture
def workspace(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Page], Path]:
    """Return how to make the folder for a page, which becomes the current one."""

    def enter(page: Page) -> Path:
        root = tmp_path / "work"
        shutil.copytree(template, root, symlinks=True)
        if "init-bundle" not in page.text:  # it speaks of a bundle that there is already
            shutil.copytree(root / "bundles" / "hippocampus_sdseg", root / "my_bundle")
            with zipfile.ZipFile(root / "my_bundle.zip", "w") as archive:
                for path in (root / "my_bundle").rglob("*"):
                    archive.write(path, path.relative_to(root))
        for block in page.blocks:
            if block.title in ("cases.csv", "datalist.json", "at_least.json"):
                (root / block.title).write_text(block.text)
        monkeypatch.chdir(root)
        return root

    return enter
