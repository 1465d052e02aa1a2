"""Overlays in YAML: values are read, and aliases, of which nine lines can stand for more than any memory holds, not."""

import time

import pytest

from sdseg_monai.bundle import Bundle
from sdseg_monai.errors import InputError

BOMB = "a0: &a0 [x, x, x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 30))
MERGE_BOMB = "a0: &a0 {x: 1}\n" + "".join(
    f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 30)
)


def overlaid(tmp_path, text, name="overlay.yaml"):
    """Return the config of the embedded bundle with an overlay of this text."""
    overlay = tmp_path / name
    overlay.write_text(text)
    return Bundle.open("hippocampus_sdseg").config("inference", [overlay])


@pytest.mark.parametrize("name", ["overlay.yaml", "overlay.YML", ".yaml"])
@pytest.mark.parametrize("text", [BOMB, MERGE_BOMB, "a: &a [*a]\n", "size: &side [32, 32]\nother: *side\n"])
def test_aliases_are_refused_before_anything_is_built(tmp_path, text, name):
    start = time.monotonic()
    with pytest.raises(InputError, match=r"has the alias \*\w+ in line [12], expected YAML without aliases") as refusal:
        overlaid(tmp_path, text, name)
    assert str(tmp_path / name) in str(refusal.value) and time.monotonic() - start < 10


def test_yaml_without_aliases_is_read(tmp_path):
    assert overlaid(tmp_path, "size: [32, 48]  # & and * are no aliases here\nbatch_size: 3\n")["size"] == [32, 48]


def test_text_that_is_not_yaml_is_refused(tmp_path):
    for text in ("- a: [", "a: \x07"):
        with pytest.raises(InputError, match=r"overlay\.yaml: cannot be chained after"):
            overlaid(tmp_path, text)
