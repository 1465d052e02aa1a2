import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from sdseg_monai.errors import InputError
from sdseg_monai.io.pictures import is_picture, list_images, read_picture, read_picture_mask, write_picture_mask
from sdseg_monai.transforms import LoadVolumed, SaveMaskd

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
    jpeg_mask = read_picture_mask(tmp_path / "a.jpg")
    assert jpeg_mask.dtype == bool
    np.testing.assert_array_equal(jpeg_mask, mask)


@pytest.mark.parametrize("mode", ["1", "L", "RGB"])
def test_masks_of_every_mode(tmp_path, mode):
    Image.fromarray(MASK.astype(np.uint8) * 255).convert(mode).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_picture_mask(tmp_path / "a.png"), MASK)


@pytest.mark.parametrize(("value", "foreground"), [(0, False), (60, None), (192, True), (255, True)])
def test_lighter_than_middle_grey_is_foreground(tmp_path, value, foreground):
    Image.fromarray(np.full((2, 3), value, np.uint8)).save(tmp_path / "a.png")
    if foreground is None:
        with pytest.raises(InputError, match="its lightest pixel is 60"):
            read_picture_mask(tmp_path / "a.png")
    else:
        np.testing.assert_array_equal(read_picture_mask(tmp_path / "a.png"), np.full((2, 3), foreground))


@pytest.mark.parametrize("kind", ["grey", "colours", "photograph"])
def test_what_is_no_mask_is_refused(tmp_path, kind):
    rng = np.random.default_rng(0)
    array = {
        "grey": np.full((40, 40), 128, np.uint8),  # a disc in an optic nerve's label
        "colours": np.eye(3, dtype=np.uint8)[rng.integers(0, 3, (40, 40))] * np.uint8(255),
        "photograph": rng.integers(0, 256, (40, 40, 3), np.uint8),
    }[kind]
    Image.fromarray(array).save(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"a\.png: .*% of its pixels are grey or coloured"):
        read_picture_mask(tmp_path / "a.png")


def test_a_jpeg_of_a_mask_is_one(tmp_path):
    y, x = np.mgrid[:128, :128]
    disc = np.hypot(x - 60, y - 70) < 30
    Image.fromarray(np.repeat(disc[..., None], 3, 2).astype(np.uint8) * 255).save(tmp_path / "a.jpg", quality=75)
    assert (read_picture_mask(tmp_path / "a.jpg") != disc).mean() < 0.01


def write_deep_png(path):
    """Write an RGB PNG of 16 bits a channel, 2 x 2, which PIL can read but not write."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 2, 2, 16, 2, 0, 0, 0)
    rows = b"".join(b"\0" + struct.pack(">6H", *range(0, 60000, 10000)) for _ in range(2))
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)


def test_deep_turned_and_disguised_pictures_are_refused(tmp_path):
    """16 bits a channel, an EXIF orientation, and PostScript under another name, which PIL would run."""
    write_deep_png(tmp_path / "deep.png")
    turned = Image.fromarray(RGB)
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.jpg", exif=exif)
    (tmp_path / "script.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n")
    for name, message in (
        ("deep.png", "more than 8 bits"),
        ("turned.jpg", "EXIF orientation is 6"),
        ("script.png", "not a readable picture"),
    ):
        with pytest.raises(InputError, match=message):
            read_picture(tmp_path / name)


def test_two_pictures_of_one_name_are_refused(tmp_path):
    for suffix in ("jpg", "png"):
        Image.fromarray(RGB).save(tmp_path / f"a.{suffix}")
    with pytest.raises(InputError, match="their masks would be one file"):
        list_images(tmp_path)


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
    with pytest.raises(InputError, match=r"a\.png: is no ordinary file"):
        write_picture_mask(tmp_path / "a.png", MASK)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "file"]


def write_pages(path):
    Image.fromarray(RGB).save(path, save_all=True, append_images=[Image.fromarray(RGB)])


@pytest.mark.parametrize("width", [16, 32, 107, 160, 161, 320, 1072])
@pytest.mark.parametrize("suffix", [".bmp", ".tif", ".png", ".jpg"])
@pytest.mark.parametrize("mode", ["L", "RGB", "1"])
def test_no_width_is_taken_for_a_depth(tmp_path, width, suffix, mode):
    path = tmp_path / f"a{suffix}"
    options = {"compression": "tiff_lzw"} if suffix == ".tif" and mode == "RGB" else {}
    Image.new(mode, (width, 48)).save(path, **options)
    assert read_picture(path).shape == (3, 48, width)


def test_alpha_of_grey_is_dropped(tmp_path):
    Image.new("LA", (8, 4), (77, 12)).save(tmp_path / "a.png")
    assert (read_picture(tmp_path / "a.png") == 77).all()


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
        (
            "a.png",
            lambda path: Image.fromarray(RGB[..., 0].astype(np.uint16)).save(path),
            "pixels of more than 8 bits or of mode I;16",
        ),
        (
            "a.tif",
            lambda path: Image.fromarray(RGB[..., 0].astype(np.float32)).save(path),
            "pixels of more than 8 bits or of mode F",
        ),
    ],
)
def test_unusable_pictures_are_named_in_one_line(tmp_path, name, write, message):
    path = tmp_path / name
    write(path)
    for reader in (read_picture, read_picture_mask):
        with pytest.raises(InputError) as error:
            reader(path)
        assert str(error.value).startswith(f"{path}: {message}") and "\n" not in str(error.value)


def test_pictures_are_known_by_their_names():
    assert is_picture(Path("b.JPG")) and is_picture(Path("a.tif")) and not is_picture(Path("scan.nii.gz"))


def load(folder, **names):
    return LoadVolumed(tuple(names))({key: str(folder / name) for key, name in names.items()})


@pytest.fixture
def case(tmp_path):
    """A photograph and its label in folders of their own."""
    for kind, array in (("images", RGB), ("masks", MASK.astype(np.uint8) * np.uint8(255))):
        (tmp_path / kind).mkdir()
        Image.fromarray(array).save(tmp_path / kind / "a.png")
    return tmp_path


def test_a_photograph_is_a_volume_of_one_slice(case):
    item = load(case, image="images/a.png", label="masks/a.png")
    np.testing.assert_array_equal(item["image"][..., 0], RGB.transpose(2, 0, 1))
    np.testing.assert_array_equal(item["label"][0, ..., 0], MASK)
    SaveMaskd("label", case / "out")(item)
    np.testing.assert_array_equal(read_picture_mask(case / "out" / "a.png"), MASK)


def test_image_and_label_of_other_sizes_are_refused(case):
    Image.fromarray(RGB[:4]).save(case / "images" / "a.png")
    with pytest.raises(InputError, match=r"shape \(5, 7, 1\), expected \(4, 7, 1\)"):
        load(case, image="images/a.png", label="masks/a.png")


@pytest.mark.parametrize("folder", ["images", "masks"])
def test_a_mask_replaces_no_input(case, folder):
    item = load(case, image="images/a.png", label="masks/a.png")
    before = (case / folder / "a.png").read_bytes()
    with pytest.raises(InputError, match="would replace an input"):
        SaveMaskd("label", case / folder)(item)
    assert (case / folder / "a.png").read_bytes() == before


def test_masks_of_two_images_of_one_name_are_refused(case):
    (case / "more").mkdir()
    Image.fromarray(RGB).save(case / "more" / "a.png")
    save = SaveMaskd("image", case / "out")
    for _ in range(2):  # the same image twice is no mistake: processes share a validation set
        save({"image": load(case, image="images/a.png")["image"][:1] > 99})
    with pytest.raises(InputError, match="rename one of them"):
        save({"image": load(case, image="more/a.png")["image"][:1] > 99})
