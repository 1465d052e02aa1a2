from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from sdseg_monai.errors import InputError
from sdseg_monai.pictures import is_picture, read_picture, read_picture_mask, write_picture_mask

RGB = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)  # [H, W, 3]
MASK = RGB[..., 0] > 100


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif"])
def test_photographs_come_as_channels_height_width(tmp_path, suffix):
    Image.fromarray(RGB).save(tmp_path / f"a{suffix}")
    picture = read_picture(tmp_path / f"a{suffix}")
    assert picture.dtype == np.float32
    np.testing.assert_array_equal(picture, RGB.transpose(2, 0, 1))


def test_grey_alpha_and_palette_become_three_channels(tmp_path):
    grey = RGB[..., 0]
    Image.fromarray(grey).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read_picture(tmp_path / "grey.png"), np.stack([grey] * 3))
    Image.fromarray(np.dstack([RGB, np.full((5, 7), 9, np.uint8)])).save(tmp_path / "alpha.png")
    np.testing.assert_array_equal(read_picture(tmp_path / "alpha.png"), RGB.transpose(2, 0, 1))
    palette = Image.fromarray(MASK.astype(np.uint8), mode=None).convert("P")
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.save(tmp_path / "palette.png")
    colours = np.where(MASK[..., None], [40, 50, 60], [10, 20, 30])
    np.testing.assert_array_equal(read_picture(tmp_path / "palette.png"), colours.transpose(2, 0, 1))


def test_masks_survive_jpeg(tmp_path):
    mask = np.kron(MASK, np.ones((9, 9))).astype(bool)
    Image.fromarray(mask.astype(np.uint8) * 255).save(tmp_path / "a.jpg", quality=75)
    assert len(np.unique(np.asarray(Image.open(tmp_path / "a.jpg")))) > 2  # the codec did blur it
    read = read_picture_mask(tmp_path / "a.jpg")
    assert read.dtype == bool
    np.testing.assert_array_equal(read, mask)


@pytest.mark.parametrize("mode", ["1", "L", "RGB"])
def test_masks_of_every_mode(tmp_path, mode):
    Image.fromarray(MASK.astype(np.uint8) * 255).convert(mode).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_picture_mask(tmp_path / "a.png"), MASK)


@pytest.mark.parametrize(("value", "foreground"), [(0, False), (128, True), (255, True)])
def test_lighter_than_middle_grey_is_foreground(tmp_path, value, foreground):
    Image.fromarray(np.full((2, 3), value, np.uint8)).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_picture_mask(tmp_path / "a.png"), np.full((2, 3), foreground))


@pytest.mark.parametrize("value", [1, 127])
def test_a_label_map_of_class_numbers_is_no_mask(tmp_path, value):
    Image.fromarray(MASK.astype(np.uint8) * np.uint8(value)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match=rf"a\.png: its lightest pixel is {value}, expected a mask of black"):
        read_picture_mask(tmp_path / "a.png")


def test_masks_are_written_as_black_and_white_png(tmp_path):
    path = tmp_path / "new" / "a.png"
    write_picture_mask(path, MASK)
    picture = Image.open(path)
    assert picture.format == "PNG" and picture.mode == "L"
    np.testing.assert_array_equal(np.asarray(picture), np.where(MASK, 255, 0))
    np.testing.assert_array_equal(read_picture_mask(path), MASK)
    assert [file.name for file in path.parent.iterdir()] == ["a.png"]


def test_a_mask_that_cannot_be_written_leaves_nothing(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write here"):
        write_picture_mask(tmp_path / "file" / "a.png", MASK)
    (tmp_path / "a.png").mkdir()
    with pytest.raises(InputError, match=r"a\.png: cannot be written"):
        write_picture_mask(tmp_path / "a.png", MASK)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "file"]


def write_pages(path):
    Image.fromarray(RGB).save(path, save_all=True, append_images=[Image.fromarray(RGB)])


def write_header_alone(path):
    """Write a PNG that claims 60000 x 60000 pixels and holds none."""
    with path.open("wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        header = (60_000).to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])
        PngImagePlugin.putchunk(file, b"IHDR", header)
        PngImagePlugin.putchunk(file, b"IDAT", b"")
        PngImagePlugin.putchunk(file, b"IEND", b"")


def write_truncated(path):
    Image.fromarray(RGB).resize((64, 64)).save(path)
    path.write_bytes(path.read_bytes()[:-200])


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("a.png", lambda path: None, "no such file"),
        ("a.png", lambda path: path.mkdir(), "no such file"),
        ("a.png", lambda path: path.write_bytes(b""), "not a readable picture"),
        ("a.png", lambda path: path.write_text("text"), "not a readable picture"),
        ("a.png", write_truncated, "not a readable picture"),
        ("a.jpg", write_truncated, "not a readable picture"),
        ("a.png", write_header_alone, "not a readable picture"),
        ("a.tif", write_pages, "2 pages, expected one picture"),
        ("a.png", lambda path: Image.fromarray(RGB[..., 0].astype(np.uint16)).save(path), "pixels of mode I;16"),
        ("a.tif", lambda path: Image.fromarray(RGB[..., 0].astype(np.float32)).save(path), "pixels of mode F"),
    ],
)
def test_unusable_pictures_are_named_in_one_line(tmp_path, name, write, message):
    path = tmp_path / name
    write(path)
    for read in (read_picture, read_picture_mask):
        with pytest.raises(InputError) as error:
            read(path)
        assert str(error.value).startswith(f"{path}: {message}") and "\n" not in str(error.value)


def test_pictures_are_known_by_their_names():
    assert is_picture(Path("b.JPG")) and is_picture(Path("a.tif")) and not is_picture(Path("scan.nii.gz"))
