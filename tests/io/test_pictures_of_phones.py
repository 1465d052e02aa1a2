"""Pictures as phones, printers and other programs write them: read rightly, or refused by name with what to do."""

import numpy as np
import pytest
from PIL import Image

from sdseg_monai.errors import InputError
from sdseg_monai.io.pictures import read_picture, read_picture_mask

HEIGHT, WIDTH = 40, 64
RAMP = np.add.outer(np.arange(HEIGHT) * 2, np.arange(WIDTH) * 2).astype(np.uint8)
SMOOTH = np.dstack([RAMP, RAMP[::-1], 255 - RAMP])  # [H, W, 3], which JPEG hardly changes
PHOTOGRAPH = Image.fromarray(SMOOTH)
ORIENTATION = 0x0112


def write_mpo(path, first, others):
    first.save(path, format="MPO", save_all=True, append_images=others, quality=95)
    assert Image.open(path).format == "MPO" and getattr(Image.open(path), "n_frames", 1) == 1 + len(others)


@pytest.mark.parametrize(
    "others",
    [
        [PHOTOGRAPH.resize((16, 10))],  # a preview
        [Image.new("L", PHOTOGRAPH.size, 90), PHOTOGRAPH.resize((8, 5))],  # a depth map and a preview
        [Image.new("RGB", (2 * WIDTH, 2 * HEIGHT), (9, 9, 9))],
    ],
)
def test_the_first_picture_of_a_phones_jpeg_is_read(tmp_path, others):
    write_mpo(tmp_path / "a.jpg", PHOTOGRAPH, others)
    PHOTOGRAPH.save(tmp_path / "plain.jpg", quality=95)
    picture = read_picture(tmp_path / "a.jpg")
    np.testing.assert_array_equal(picture, read_picture(tmp_path / "plain.jpg"))
    assert np.abs(picture - SMOOTH.transpose(2, 0, 1)).mean() < 4


def test_a_mask_may_be_one_too(tmp_path):
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[10:30, 16:48] = True
    write_mpo(tmp_path / "a.jpg", Image.fromarray(mask.astype(np.uint8) * np.uint8(255)), [Image.new("L", (8, 8), 255)])
    np.testing.assert_array_equal(read_picture_mask(tmp_path / "a.jpg"), mask)


def test_a_turned_phone_picture_is_refused(tmp_path):
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    PHOTOGRAPH.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[PHOTOGRAPH], exif=exif)
    with pytest.raises(InputError, match=r"a\.jpg: its EXIF orientation is 6, .*: rotate its pixels first"):
        read_picture(tmp_path / "a.jpg")


DEEP = RAMP.astype(np.uint16) * 257
BLACK_AND_WHITE = np.where(RAMP > 90, np.uint16(65535), np.uint16(0))


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        (
            "a.jpg",
            lambda path: PHOTOGRAPH.convert("CMYK").save(path),
            r"colours for printing \(CMYK\).*convert it to RGB",
        ),
        (
            "a.tif",
            lambda path: PHOTOGRAPH.convert("CMYK").save(path),
            r"colours for printing \(CMYK\).*convert it to RGB",
        ),
        ("a.png", lambda path: Image.fromarray(DEEP).save(path), "mode I;16, expected 8-bit grey or RGB: scale"),
        ("a.tif", lambda path: Image.fromarray(DEEP).save(path), "mode I;16, expected 8-bit grey or RGB: scale"),
        ("a.png", lambda path: Image.fromarray(BLACK_AND_WHITE).save(path), "more than 8 bits"),
        ("a.tif", lambda path: Image.fromarray(RAMP.astype(np.int32)).save(path), "mode I, expected 8-bit grey or RGB"),
        ("a.tif", lambda path: PHOTOGRAPH.convert("LAB").save(path), "mode LAB, expected 8-bit grey or RGB"),
        (
            "a.png",
            lambda path: PHOTOGRAPH.save(path, save_all=True, append_images=[PHOTOGRAPH.rotate(5)]),
            "2 pages, expected one picture: save the page to use",
        ),
        ("a.png", lambda path: PHOTOGRAPH.save(path, format="GIF"), "content is none of PNG, JPEG, BMP, TIFF; save it"),
        (
            "a.png",
            lambda path: PHOTOGRAPH.save(path, format="WEBP"),
            "content is none of PNG, JPEG, BMP, TIFF; save it",
        ),
        (
            "a.tif",
            lambda path: PHOTOGRAPH.save(path, tiffinfo={ORIENTATION: 3}),
            "orientation is 3, .* rotate its pixels",
        ),
    ],
)
def test_what_is_refused_is_named_with_what_to_do(tmp_path, name, write, message):
    write(tmp_path / name)
    for reader in (read_picture, read_picture_mask):
        with pytest.raises(InputError, match=message) as caught:
            reader(tmp_path / name)
        assert str(caught.value).startswith(f"{tmp_path / name}: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize("options", [{"progressive": True}, {"subsampling": 2}, {"optimize": True}])
def test_kinds_of_jpeg_are_alike(tmp_path, options):
    PHOTOGRAPH.save(tmp_path / "a.jpg", quality=95, **options)
    assert np.abs(read_picture(tmp_path / "a.jpg") - SMOOTH.transpose(2, 0, 1)).mean() < 8


def test_a_jpeg_called_png_is_read_by_its_content(tmp_path):
    PHOTOGRAPH.save(tmp_path / "a.png", format="JPEG", quality=95)
    assert np.abs(read_picture(tmp_path / "a.png") - SMOOTH.transpose(2, 0, 1)).mean() < 8


@pytest.mark.parametrize("reader", [read_picture, read_picture_mask])
def test_a_nul_byte_in_a_path_is_no_such_file(tmp_path, reader):
    with pytest.raises(InputError, match="no such file"):
        reader(tmp_path / "a\0.png")
