"""Compressed files: read as far as their headers reach and no farther, by their content and not their names."""

import bz2
import gzip
import time
import zlib
from pathlib import Path

import numpy as np
import psutil
import pytest

from sdseg_monai.errors import InputError
from sdseg_monai.io.files import check_exists
from sdseg_monai.io.formats.nifti import SLACK
from sdseg_monai.io.memory import READING_BYTES, check_memory, segmenting_bytes
from sdseg_monai.io.volumes import read_volume
from tests.makers.headers import PLACE, mha_fields, nifti_bytes, nrrd_fields, ramp, write_mha, write_nrrd

NIFTI = nifti_bytes(ramp())
PACKED = gzip.compress(NIFTI)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("plain.nii.gz", NIFTI),
        ("packed.nii", PACKED),
        ("members.nii.gz", gzip.compress(NIFTI[:300]) + gzip.compress(NIFTI[300:])),
        ("blocks.nii.gz", gzip.compress(NIFTI) + gzip.compress(b"")),  # as bgzip ends
        ("zeros.nii.gz", PACKED + bytes(512)),
        ("long.nii", NIFTI + bytes(1000)),
        ("UPPER.NII.GZ", PACKED),
        ("Mixed.Nii.Gz", PACKED),
        ("Mixed.Nii", NIFTI),
    ],
)
def test_a_file_is_read_by_its_content_whatever_its_name(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    volume = read_volume(tmp_path / name)
    np.testing.assert_array_equal(volume.array, ramp())
    np.testing.assert_allclose(volume.affine, PLACE)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (PACKED + b"<html>404</html>", "truncated or damaged"),
        (PACKED[:-20], "truncated or damaged"),
        (PACKED[:-8] + bytes([PACKED[-8] ^ 1]) + PACKED[-7:], "truncated or damaged"),
        (gzip.compress(NIFTI + bytes(SLACK + 1)), "more bytes than the header's voxels take"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "git-lfs pointer"),
        (b"/annex/objects/MD5E-s1--abc.nii.gz\n", "git-annex pointer"),
        (b"\n<!DOCTYPE html><html>login</html>", "a web page"),
        (b'<?xml version="1.0"?><Error>AccessDenied</Error>', "XML"),
        (b'{"message": "Not found"}', "JSON"),
        (gzip.compress(PACKED), "compressed by gzip"),
        (bz2.compress(NIFTI), "compressed by bzip2"),
        (bytes(128) + b"DICM" + bytes(400), "DICOM"),
        (b"PK\3\4" + bytes(400), "ZIP"),
    ],
)
@pytest.mark.parametrize("name", ["image.nii.gz", "image.nii"])
def test_what_is_no_volume_is_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_volume(tmp_path / name)


@pytest.mark.parametrize("name", ["image.nrrd", "image.mha"])
def test_a_pointer_or_page_in_place_of_another_volume_is_named(tmp_path, name):
    for content, message in ((b"version https://git-lfs.github.com/spec/v1\n", "git-lfs"), (b"<html>", "a web page")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=message):
            read_volume(tmp_path / name)


def zeros(compressor, count=1 << 28):
    """Return a compressed stream of ``count`` zeros after it."""
    block = bytes(1 << 24)
    return b"".join(compressor.compress(block) for _ in range(count >> 24)) + compressor.flush()


@pytest.fixture(scope="module")
def bomb_parts():
    return zeros(zlib.compressobj(1, wbits=-15))


def test_a_bomb_is_refused_before_it_is_decompressed(tmp_path, bomb_parts):
    """A quarter of a gigabyte of zeros follows the voxels."""
    nrrd, mha = nrrd_fields(ramp()) | {"encoding": "gzip"}, mha_fields(ramp()) | {"CompressedData": "True"}
    head = zlib.compressobj(1, wbits=-15)
    header = head.compress(NIFTI) + head.flush(zlib.Z_FULL_FLUSH)
    voxels = zlib.compressobj(1, wbits=-15)
    body = voxels.compress(ramp().tobytes("F")) + voxels.flush(zlib.Z_FULL_FLUSH)
    gzip_start, zlib_start = gzip.compress(b"")[:10], b"\x78\x01"
    (tmp_path / "a.nii.gz").write_bytes(gzip_start + header + bomb_parts + bytes(8))
    for path, start in (
        (write_nrrd(tmp_path / "a.nrrd", ramp()[:0], nrrd | {"sizes": "4 5 6"}), gzip_start),
        (write_mha(tmp_path / "a.mha", ramp()[:0], mha | {"DimSize": "4 5 6"}), zlib_start),
    ):
        text = path.read_bytes()
        end = text.index(b"\n\n") + 2 if path.suffix == ".nrrd" else text.index(b"LOCAL\n") + 6
        path.write_bytes(text[:end] + start + body + bomb_parts + bytes(8))
    for name in ("a.nii.gz", "a.nrrd", "a.mha"):
        assert (tmp_path / name).stat().st_size < 1 << 21
        before = time.process_time()
        with pytest.raises(InputError, match="more bytes than the header's voxels take"):
            read_volume(tmp_path / name)
        assert time.process_time() - before < 0.5


def test_a_header_of_many_megabytes_is_refused(tmp_path):
    (tmp_path / "a.nii").write_bytes(nifti_bytes(ramp(), vox_offset=3e9))
    with pytest.raises(InputError, match="voxels would start at byte 3000000000"):
        read_volume(tmp_path / "a.nii")


def test_memory_is_compared_with_what_is_available_and_classes_count():
    available = psutil.virtual_memory().available
    edge = int((available / segmenting_bytes(2)) ** (1 / 3))
    check_memory((edge // 2,) * 3, "small", segmenting_bytes(2))
    with pytest.raises(InputError, match=r"large: .* voxels need .* GiB of memory to be segmented, "):
        check_memory((int(edge * 0.9),) * 3, "large", segmenting_bytes(14), "to be segmented")
    assert READING_BYTES < segmenting_bytes(2) < segmenting_bytes(3)


@pytest.mark.parametrize(("name", "reason"), [("a\0b.nii.gz", "NUL"), ("a\ud800b.nii.gz", "half a character")])
def test_a_name_that_no_file_can_have_is_one_line(name, reason):
    with pytest.raises(InputError, match=reason) as caught:
        check_exists(Path(name))
    assert name not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        *((f"image{suffix}", "one of a pair of files.* as one file") for suffix in (".mhd", ".nhdr", ".hdr", ".img")),
        ("image.nii.bz2", "decompress it"),
        ("image.mgz", "convert it to NIfTI"),
        ("image.xyz", "unknown kind of file"),
    ],
)
def test_other_kinds_are_refused_with_what_to_do(tmp_path, name, message):
    (tmp_path / name).write_bytes(NIFTI)
    with pytest.raises(InputError, match=message):
        read_volume(tmp_path / name)
