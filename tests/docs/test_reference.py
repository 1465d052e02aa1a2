"""Tables and examples on the pages agree with the configs, the command's options and the files that are written."""

from __future__ import annotations

import argparse
import contextlib
import inspect
import io
import json
import re
from collections import Counter

import pytest
from monai.bundle import ConfigParser

from sdseg_monai.cli import COMMANDS, main, make_parser
from sdseg_monai.demo.phantom import write_phantom
from sdseg_monai.inference.manifest import FILE_NAME
from sdseg_monai.inferers import SliceWiseInferer
from sdseg_monai.networks import DenoisingUNet, MaskAutoencoder, SDSeg
from sdseg_monai.planning import init_bundle
from tests.docs.pages import BUNDLES, WHOLE, Page, codes, tables
from tests.makers.places import ROOT

OTHERS = ["skin_lesion_sdseg", "fetal_head_sdseg", "left_ventricle_sdseg"]
PARTS = {"imports", "network", "load_pretrained", "how_to_get_data", "bundle_root", "dataset_dir"}
MISSING = object()


def config_of(bundle: str, name: str) -> dict:
    return json.loads((ROOT / "bundles" / bundle / "configs" / f"{name}.json").read_text())


def is_plain(value: object) -> bool:
    """Whether a value is neither a part nor an expression."""
    if isinstance(value, list):
        return all(not isinstance(item, dict | list) and is_plain(item) for item in value)
    return not isinstance(value, dict) and not (isinstance(value, str) and value.startswith(("$", "@", "%")))


@pytest.mark.parametrize("name", ["train", "evaluate", "inference", "train_autoencoder"])
def test_the_reference_names_every_knob_with_its_value(name):
    configs = [config_of(bundle, name) for bundle in BUNDLES]
    section_tables = [rows for heading, rows in tables("docs/bundles.md") if heading == f"{name}.json"]
    knobs = next(rows for rows in section_tables if rows[0] == ["knob", *BUNDLES, "meaning"])
    for cell, *values, meaning in knobs[1:]:
        (knob,) = codes(cell)
        assert meaning and any(knob in config for config in configs), knob
        for value, config in zip(values, configs, strict=True):
            if "#" in knob and knob not in config and config.get("network_def"):
                config = {knob: ConfigParser(config)[knob]}
            if knob not in config:
                assert value == "", f"{knob}: {value} of a bundle that has none"
            elif is_plain(config[knob]) and knob != "how_to_get_data":
                assert codes(value) == [json.dumps(config[knob])], knob
            else:
                assert value in ("computed", "text"), knob
    documented = {knob for row in knobs[1:] for knob in codes(row[0])}
    documented |= {
        part for rows in section_tables if rows[0][0] == "part" for row in rows[1:] for part in codes(row[0])
    }
    section = (ROOT / "docs" / "bundles.md").read_text().partition(f"\n## {name}.json\n")[2].partition("\n## ")[0]
    prose = set(codes(re.sub(r"^\|.*$", "", section, flags=re.MULTILINE)))  # parts of the smaller configs
    config_keys = {key for config in configs for key in config}
    assert config_keys <= documented | prose, config_keys - documented - prose
    assert {knob for knob in documented if "#" not in knob} <= config_keys, documented - config_keys


def test_the_reference_names_what_the_other_bundles_change():
    configs = [config_of(bundle, "train") for bundle in OTHERS]
    known = config_of("hippocampus_sdseg", "train")
    table = next(rows for _, rows in tables("docs/bundles.md") if rows[0] == ["knob", *OTHERS, "meaning"])
    expected = {
        knob: [
            json.dumps(config[knob]) if is_plain(config[knob]) else "computed" for config in configs if knob in config
        ]
        for config in configs
        for knob, value in config.items()
        if not isinstance(value, dict) and knob not in PARTS and value != known.get(knob, MISSING)
    }
    documented = {codes(cell)[0]: [v.strip("`") for v in values if v] for cell, *values, _ in table[1:]}
    assert documented == expected
    assert all(meaning or codes(cell)[0] in known for cell, *_, meaning in table[1:])


def test_the_reference_names_leaves_with_their_defaults():
    rows = next(rows for _, rows in tables("docs/bundles.md") if rows[0][0] == "leaf")
    config = ConfigParser(config_of("sdseg", "train"))
    owners = {
        "network_def": SDSeg,
        "network_def#unet": DenoisingUNet,
        "network_def#autoencoder": MaskAutoencoder,
        "validate#inferer": SliceWiseInferer,
    }
    for cell, default, _ in rows[1:]:
        (key,) = codes(cell)
        parent, _, leaf = key.rpartition("#")
        value = config[key] if key in config else inspect.signature(owners[parent]).parameters[leaf].default
        assert codes(default) == [json.dumps(value)], key


@pytest.mark.parametrize("bundle", BUNDLES)
def test_the_reference_names_every_overlay(bundle):
    configs = ROOT / "bundles" / bundle / "configs"
    overlays = {str(path.relative_to(configs)) for path in configs.rglob("*.json") if path.stem not in WHOLE}
    section_tables = [rows for heading, rows in tables("docs/bundles.md") if heading == "Overlays"]
    documented = [name for row in section_tables[BUNDLES.index(bundle)][1:] for name in codes(row[0])]
    assert Counter(documented) == Counter(overlays)


def test_every_option_of_the_command_is_described():
    pages = {
        "segment": "segment",
        "evaluate": "segment",
        "ejection": "segment",
        "init-bundle": "train",
        "audit": "train",
        "label": "label",
    }
    (commands,) = (action for action in make_parser()._actions if isinstance(action, argparse._SubParsersAction))
    texts = {page: (ROOT / "docs" / f"{page}.md").read_text() for page in pages.values()}
    for command, page in pages.items():
        for action in commands.choices[command]._actions:
            longest = max(action.option_strings, key=len, default="")
            if longest not in ("", "--help", "--output") and not (command == "audit" and longest in texts["segment"]):
                assert longest in texts[page] or longest in ("--quiet", "--verbose"), f"{command} {longest}"
    options = {option for name in COMMANDS for a in commands.choices[name]._actions for option in a.option_strings}
    knobs = {f"--{knob}" for bundle in BUNDLES for name in WHOLE - {"metadata", "datalist"}
             for knob in config_of(bundle, name)}  # fmt: skip
    for page, text in texts.items():
        words = {word for code in codes(re.sub(r"```.*?```", "", text, flags=re.DOTALL)) for word in code.split()}
        foreign_options = {"--app", "--conf", "--uvicorn_app", "--bundle_root"}  # of monailabel
        unknown = {word for word in words if word.startswith("--")} - options - knobs - foreign_options
        assert not unknown, f"docs/{page}.md: {unknown}"


def keys(value: object) -> object:
    """Return the names in JSON, without the values."""
    return {name: keys(item) for name, item in value.items()} if isinstance(value, dict) else None


def test_the_example_of_a_plan_is_one(tmp_path):
    (example,) = (block.text for block in Page("docs/train.md").blocks if block.language == "text")
    for kind in ("images", "labels"):
        (tmp_path / kind).mkdir()
    for number in range(8):
        image, label = (tmp_path / kind / f"case_{number}.nii.gz" for kind in ("images", "labels"))
        write_phantom(image, label, seed=number)
    folders = (tmp_path / "images", tmp_path / "labels", tmp_path / "my_bundle")
    plan = init_bundle(*folders, names={1: "Head", 2: "Tail"}, seconds_per_slice=0.03, progress=False)
    plan_lines = [line.replace(f"{tmp_path}/", "") for line in plan.lines]
    assert [line for line in plan_lines if line in example.splitlines()] == [
        row for row in example.splitlines() if row != "..."
    ]


def test_the_example_of_a_mask_s_file_has_what_is_written(template, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (example_output,) = (block.text for block in Page("docs/segment.md").blocks if block.language == "text")
    assert main(["segment", str(template / "scan.nii.gz"), "-o", "mask.nii.gz", "-q", "--device", "cpu"]) == 0
    assert capsys.readouterr().out.startswith(example_output.partition("...")[0])
    (example,) = (block.text for block in Page("docs/segment.md").blocks if block.title == "mask.json")
    mask_json = json.loads((tmp_path / "mask.json").read_text())
    assert keys(json.loads(example)) == keys(mask_json)
    with contextlib.redirect_stdout(io.StringIO()):
        assert main(["segment", str(template / "scans"), "-o", str(tmp_path / "masks"), "-q", "--device", "cpu"]) == 0
    manifest = json.loads((tmp_path / "masks" / FILE_NAME).read_text())
    assert set(manifest) == {"about", "settings", "left_out", "cases"} and keys(manifest["about"]) == keys(
        mask_json["about"]
    )
    assert {"status", *mask_json["case"]} == set(manifest["cases"]["case_0.nii.gz"])
