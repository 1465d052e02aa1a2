"""The picture of the package agrees with the code, and the pages name every layer, module and package."""

import configparser
import importlib.util

import pytest

from tests.makers.places import ROOT

PACKAGE = ROOT / "sdseg_monai"


@pytest.fixture(scope="module")
def house():
    """The script that draws."""
    spec = importlib.util.spec_from_file_location("house", ROOT / "docs" / "house.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_picture_is_that_of_the_code(house):
    assert house.PICTURE.read_text() == house.draw(), "after a move run python docs/house.py"


def test_every_room_has_a_place_in_a_layer(house):
    """So the contract of setup.cfg holds for all of the package, and the top level stays small."""
    modules = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    packages = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    placed = {room for layer in house.layers() for room in layer}
    assert placed == modules | packages
    assert len(modules) <= 10 and len(packages) <= 14 and len(house.layers()) <= 9


def test_pages_name_every_layer_and_room(house):
    design = (ROOT / "docs" / "design.md").read_text()
    section = design[design.index("## Layers") : design.index("## Contracts")]
    for layer, rooms in zip(house.LAYERS, house.layers(), strict=True):
        assert f"**{layer}**:" in section.lower()
        for room in rooms:
            assert f"`{room}`" in section, room
    assert "images/house.svg" in (ROOT / "docs" / "development.md").read_text()


def test_every_package_is_in_the_wheel():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    folders = {file.parent.relative_to(ROOT) for file in PACKAGE.rglob("__init__.py")}
    packages = {".".join(folder.parts) for folder in folders}
    assert set(config["options"]["packages"].split()) == packages | {"sdseg_monai.bundles"}
