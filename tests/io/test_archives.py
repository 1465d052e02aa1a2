"""A zip of a bundle is unpacked if it is no larger than a bundle and its names say where its files go."""

import stat
import zipfile

import pytest

from sdseg_monai.errors import InputError
from sdseg_monai.io.bundles import archives
from sdseg_monai.io.bundles.archives import unpack_bundle


def write(path, members, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


def test_a_bundle_is_unpacked(tmp_path):
    members = [("mine/configs/", ""), ("mine/configs/inference.json", "{}" + " " * 10_000_000)]
    root = unpack_bundle(write(tmp_path / "a.zip", members))
    assert root.name == "mine" and (root / "configs" / "inference.json").stat().st_size == 10_000_002


def link(name="mine/link"):
    member = zipfile.ZipInfo(name)
    member.external_attr = (stat.S_IFLNK | 0o777) << 16
    return member


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("../a", "")], "unsafe path"),
        ([("mine/../../a", "")], "unsafe path"),
        ([("/etc/a", "")], "unsafe path"),
        ([("..\\a", "")], "unsafe name"),
        ([("a\x1b[2J", "")], r"unsafe name in it: 'a\\x1b\[2J'"),
        ([("a\u202egpj", "")], "unsafe name"),
        ([(link(), "/etc/passwd")], "a link in it"),
        ([("mine/a", "1"), ("mine/./a", "2")], "two files of one name"),
        ([("mine/a", "1"), ("MINE/A", "2")], "two files of one name"),
        ([("mine/a", ""), ("mine/a/b", "")], "not a readable zip"),
        ([("a" * 300, "")], "not a readable zip"),
    ],
)
def test_names(tmp_path, members, message):
    with pytest.raises(InputError, match=message):
        unpack_bundle(write(tmp_path / "a.zip", members))
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]


def test_a_name_that_zipfile_would_cut(tmp_path):
    path = write(tmp_path / "a.zip", [("mine/a+b", "")])
    path.write_bytes(path.read_bytes().replace(b"a+b", b"a\0b"))
    with pytest.raises(InputError, match="unsafe name"):
        unpack_bundle(path)


def test_an_encrypted_file(tmp_path):
    path = write(tmp_path / "a.zip", [("mine/a", "text")])
    content = bytearray(path.read_bytes())
    content[6] |= 1  # of the local header, and of the central directory
    content[content.index(b"PK\1\2") + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="an encrypted file in it: mine/a"):
        unpack_bundle(path)


def test_sizes(tmp_path, monkeypatch):
    bomb = write(tmp_path / "bomb.zip", [(f"{number}", bytes(20 << 20)) for number in range(4)])
    with pytest.raises(InputError, match=r"would unpack 0\.1 MB to 84 MB, expected at most 67 MB; if it is a bundle"):
        unpack_bundle(bomb)
    with pytest.raises(InputError, match="10001 files, expected a bundle, with at most 10000"):
        unpack_bundle(write(tmp_path / "many.zip", [(str(number), "") for number in range(10_001)]))
    monkeypatch.setattr(archives, "MAX_BYTES", 100)
    with pytest.raises(InputError, match="expected at most 0 MB"):
        unpack_bundle(write(tmp_path / "large.zip", [("a", bytes(101))], zipfile.ZIP_STORED))


def test_a_file_is_no_larger_than_it_says(tmp_path):
    path = write(tmp_path / "a.zip", [("mine/configs/inference.json", b"x" * 5000)])
    content = bytearray(path.read_bytes())
    at = content.index(b"PK\1\2") + 24  # the size in the central directory
    content[at : at + 4] = (1000).to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(InputError, match="not a readable zip"):
        unpack_bundle(path)


def test_no_zip(tmp_path):
    (tmp_path / "a.zip").write_bytes(b"PK\3\4 and nothing more")
    with pytest.raises(InputError, match="not a readable zip"):
        unpack_bundle(tmp_path / "a.zip")
