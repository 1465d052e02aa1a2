"""What DICOM calls things: modalities, coded concepts, and texts that its elements and their readers can hold."""

from __future__ import annotations

import unicodedata

NOT_IMAGES = {"SEG", "SR", "PR", "KO", "AU", "DOC", "FID", "HC", "PLAN", "REG", "RTPLAN", "RTRECORD", "RTSTRUCT", "RWV"}
ANATOMY = ("123037004", "SCT", "Anatomical Structure")  # category of every segment, DICOM's CID 7150
UNKNOWN_STRUCTURE = ("91723000", "SCT", "Anatomical structure")
LONGEST_NAME = 64  # characters of DICOM's LO


def plain_text(text: str) -> str:
    """Return ``text`` for an element LO: one line of ASCII, letters without their accents, no backslash."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    printable = "".join(letter if letter.isprintable() else " " for letter in plain)
    return " ".join(printable.replace("\\", "/").split())[:LONGEST_NAME].strip()
