"""The examples in the docstrings that docs/api.md shows: those that need no file of the user's run."""

import doctest
import importlib
import re

import pytest

from tests.makers.places import ROOT

CLASSES_AND_FUNCTIONS = (
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
)


def load(address: str) -> object:
    """Return a class or function by its address."""
    module, _, name = address.rpartition(".")
    return getattr(importlib.import_module(module), name)


@pytest.mark.parametrize("address", CLASSES_AND_FUNCTIONS)
def test_examples(address):
    documented = load(address)
    parser, runner = doctest.DocTestParser(), doctest.DocTestRunner()
    module = importlib.import_module(documented.__module__)
    test = parser.get_doctest(documented.__doc__ or "", vars(module).copy(), address, None, 0)
    assert test.examples, "no example"
    output: list[str] = []
    assert runner.run(test, out=output.append).failed == 0, "".join(output)


def test_the_page_shows_them():
    page = (ROOT / "docs" / "api.md").read_text()
    shown = set(re.findall(r"^::: (\S+)", page, flags=re.MULTILINE))
    for address in CLASSES_AND_FUNCTIONS:
        assert address in shown or address.rpartition(".")[0] in shown, address
