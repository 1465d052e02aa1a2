"""Pictures of results: which pixels are coloured, and how."""

import numpy as np
import pytest

from sdseg_monai.io.segments import class_colour
from sdseg_monai.visualize import LABEL_COLOUR, PREDICTION_COLOUR, picture_panel, slice_panel

SHAPE = (8, 5, 9)
COLOURS = {value: np.array(class_colour(value)) / 255 for value in range(1, 27)}


def draw(label, prediction, **options):
    """Return the three pictures of the slice with most label, and that slice's masks as they lie there."""
    image = np.random.default_rng(0).normal(size=SHAPE)
    panel = slice_panel(image, label, prediction, 1, gap=0, **options)
    index = int((label > 0).sum(axis=(0, 2)).argmax())
    pages = [np.rot90(mask[:, index])[:, ::-1] for mask in (label, prediction)]
    return np.split(panel, 3, axis=1), pages


def assert_drawn(plain, picture, mask, colours):
    for value in np.unique(mask):
        inside = mask == value
        expected = plain[inside]
        if value:
            expected = 0.55 * expected + 0.45 * np.array(colours[value])
        np.testing.assert_allclose(picture[inside], expected, atol=1e-6)


def masks(highest):
    rng = np.random.default_rng(1)
    return rng.integers(0, highest + 1, SHAPE), rng.integers(0, highest + 1, SHAPE)


def test_one_class_is_green_in_the_label_and_red_in_the_prediction():
    (plain, first, second), (label, prediction) = draw(*masks(1))
    assert_drawn(plain, first, label, {1: LABEL_COLOUR})
    assert_drawn(plain, second, prediction, {1: PREDICTION_COLOUR})


def test_each_of_several_classes_has_its_colour_in_both():
    own_colours = {1: (1.0, 0.0, 0.5)}
    (plain, first, second), (label, prediction) = draw(*masks(3), colours=own_colours)
    colours = {2: COLOURS[2], 3: COLOURS[3], **own_colours}
    assert_drawn(plain, first, label, colours)
    assert_drawn(plain, second, prediction, colours)


def test_there_are_colours_for_every_class():
    (plain, first, _), (label, _) = draw(*masks(26))
    assert_drawn(plain, first, label, COLOURS)


@pytest.mark.parametrize("highest", [1, 2])
def test_photographs_are_drawn_likewise(highest):
    rng = np.random.default_rng(2)
    image, label = rng.uniform(-1, 1, (3, 6, 7)), rng.integers(0, highest + 1, (6, 7))
    plain, first, second = np.split(picture_panel(image, label, label, gap=0), 3, axis=1)
    np.testing.assert_allclose(plain, (image.transpose(1, 2, 0) + 1) / 2, atol=1e-6)
    single = ({1: LABEL_COLOUR}, {1: PREDICTION_COLOUR})
    for picture, colours in zip((first, second), single, strict=True):
        assert_drawn(plain, picture, label, colours if highest == 1 else COLOURS)
