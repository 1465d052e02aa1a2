"""The examples in the package's docstrings run and print what they show, and what docs/api.md shows has some."""

import doctest
import importlib
import re

import pytest

from tests.makers.places import ROOT

PACKAGE = ROOT / "sdseg_monai"
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in PACKAGE.rglob("*.py")
    if ">>>" in path.read_text()
)
WITH_EXAMPLES = (
    "sdseg_monai.inference.pipeline.segment",
    "sdseg_monai.inference.pipeline.Pipeline",
    "sdseg_monai.inference.options.Options",
    "sdseg_monai.inference.results.SegmentationResult",
    "sdseg_monai.inference.uncertainty.SampledSegmentation",
    "sdseg_monai.inference.segmenter.Segmenter",
    "sdseg_monai.evaluation.evaluate_folders",
    "sdseg_monai.evaluation.evaluate_case",
    "sdseg_monai.evaluation.compare_masks",
    "sdseg_monai.planning.init_bundle.init_bundle",
    "sdseg_monai.bundle.Bundle",
    "sdseg_monai.io.sources.open_source",
    "sdseg_monai.io.sources.list_sources",
    "sdseg_monai.networks.sdseg.SDSeg",
    "sdseg_monai.inferers.SliceWiseInferer",
    "sdseg_monai.networks.sdseg.SDSeg",
    "sdseg_monai.inferers.SliceWiseInferer",
)


@pytest.mark.parametrize("name", MODULES)
def test_examples(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    results = doctest.testmod(importlib.import_module(name))
    assert results.failed == 0


def test_the_page_of_the_api_shows_examples():
    page = (ROOT / "docs" / "api.md").read_text()
    addresses = set(re.findall(r"^::: (\S+)", page, flags=re.MULTILINE))
    for address in WITH_EXAMPLES:
        module, _, name = address.rpartition(".")
        assert address in addresses or module in addresses, address
        assert ">>>" in (getattr(importlib.import_module(module), name).__doc__ or ""), address
