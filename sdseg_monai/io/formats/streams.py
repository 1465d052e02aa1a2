"""Files read as streams, decompressed only as far as their headers say that their voxels reach.

A few megabytes of gzip can hold gigabytes of zeros. Whoever reads a stream takes as many bytes as the header promises,
and then calls :func:`check_end`, which takes little more.
"""

from __future__ import annotations

import bz2
import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal

Encoding = Literal["raw", "gzip", "zlib", "bzip2"]
GZIP_MAGIC = b"\x1f\x8b"
CHUNK = 1 << 16
# the most bytes that one byte can hold: deflate's best is 1032; bzip2 packs 45 MB of zeros into some 40 bytes
BEST_RATIO = {"raw": 1, "gzip": 1032, "zlib": 1032, "bzip2": 1 << 21}


@contextmanager
def open_stream(path: Path, encoding: Encoding = "raw", start: int = 0) -> Iterator[IO[bytes]]:
    """Open a file from byte ``start`` on; what is read of it is decompressed.

    A gzip stream may have several members, as pigz and bgzip write them, and zeros after its end.
    """
    with path.open("rb") as file:
        file.seek(start)
        stream: Any = file
        if encoding == "gzip":
            stream = gzip.GzipFile(fileobj=file)
        elif encoding == "bzip2":
            stream = bz2.BZ2File(file)
        elif encoding == "zlib":
            stream = io.BufferedReader(_ZlibStream(file), CHUNK)
        yield stream


def read_bytes(stream: IO[bytes], count: int) -> bytearray:
    """Return the next ``count`` bytes of a stream.

    Raises:
        EOFError: the stream ends before.
    """
    content = bytearray(count)
    filled = stream.readinto(content)  # type: ignore[attr-defined]  # every stream here is buffered: all, or the end
    if filled != count:
        raise EOFError(f"{filled} bytes of voxels, expected {count}")
    return content


def check_end(stream: IO[bytes], slack: int = 0) -> None:
    """Check that a stream ends here, and with it the checksum of a compressed one.

    Args:
        stream: read up to the end of its voxels.
        slack: number of zero bytes more that are passed over, where it is certain where the voxels begin.

    Raises:
        ValueError: more bytes follow.
        zlib.error, OSError, EOFError: a compressed stream is damaged or cut.
    """
    surplus = stream.read(slack + 1)
    if len(surplus) > slack or any(surplus):
        raise ValueError("there are more bytes than the header's voxels take, it does not fit the file")


class _ZlibStream(io.RawIOBase):
    """The decompressed bytes of a zlib stream, for which Python has no file, as it has for gzip and bzip2."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._stream = file, zlib.decompressobj()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._stream.eof:
            packed = self._stream.unconsumed_tail or self._file.read(CHUNK)
            content = self._stream.decompress(packed, len(buffer))
            buffer[: len(content)] = content
            if content:
                return len(content)
            if not packed:
                raise EOFError("the compressed voxels end too early")
        if (self._stream.unused_data + self._file.read(CHUNK)).strip(b"\0"):
            raise ValueError("bytes follow the compressed voxels, expected none")
        return 0
