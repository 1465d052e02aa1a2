"""What a file is by its first bytes, for messages on files that are not what their names say."""

from __future__ import annotations

START_BYTES = 512  # of a file, enough for every kind
TRY_AGAIN = "download the file again, or ask for it"
BEGINNINGS = (
    (b"version https://git-lfs", "a git-lfs pointer in place of the file: fetch the file by `git lfs pull`"),
    (b"/annex/objects/", "a git-annex pointer in place of the file: fetch the file by `git annex get`"),
    (b".git/annex/objects/", "a git-annex pointer in place of the file: fetch the file by `git annex get`"),
    (b"<!doctype html", f"a web page in place of the file: {TRY_AGAIN}"),
    (b"<html", f"a web page in place of the file: {TRY_AGAIN}"),
    (b"<?xml", f"XML, perhaps the message of a server: {TRY_AGAIN}"),
    (b"<error", f"XML, perhaps the message of a server: {TRY_AGAIN}"),
    (b'{"', f"JSON, perhaps the message of a server: {TRY_AGAIN}"),
    (b"\x1f\x8b", "compressed by gzip (twice?): decompress it"),
    (b"bzh", "compressed by bzip2: decompress it"),
    (b"\xfd7zxz", "compressed by xz: decompress it"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstandard: decompress it"),
    (b"pk\x03\x04", "a ZIP archive: unpack it"),
    (b"nrrd000", "NRRD: give it the suffix .nrrd"),
    (b"objecttype", "MetaImage: give it the suffix .mha"),
    (b"\x89hdf", "HDF5, such as MINC: convert it to NIfTI"),
    (b"\x89png", "a PNG picture: give it the suffix .png"),
    (b"\xff\xd8\xff", "a JPEG picture: give it the suffix .jpg"),
)
DICOM_PREFIX = b"dicm"  # after a preamble of 128 bytes


def content_name(start: bytes) -> str:
    """Return what a file is by its first bytes and what to do about it, for a message; empty where that is not known.

    Args:
        start: the first :data:`START_BYTES` bytes, or all where there are fewer.
    """
    start = start.removeprefix(b"\xef\xbb\xbf").lstrip(b" \t\r\n") if start[:1] != b"\x1f" else start
    lowered = start.lower()
    if lowered[128:132] == DICOM_PREFIX:
        return "DICOM: give it the suffix .dcm"
    return next((name for beginning, name in BEGINNINGS if lowered.startswith(beginning)), "")
