"""DICOM's terms: modalities, coded concepts, and texts that its elements and their readers accept."""

from __future__ import annotations

import unicodedata

NOT_IMAGES = {"SEG", "SR", "PR", "KO", "AU", "DOC", "FID", "HC", "PLAN", "REG", "RTPLAN", "RTRECORD", "RTSTRUCT", "RWV"}
ANATOMY = ("123037004", "SCT", "Anatomical Structure")  # category of every segment, DICOM's CID 7150
UNKNOWN_STRUCTURE = ("91723000", "SCT", "Anatomical structure")
LONGEST_NAME = 64  # characters of DICOM's value representation LO
LONGEST_TEXT = 1024  # of ST


def plain_text(text: str, longest: int = LONGEST_NAME) -> str:
    """Return ``text`` for an element of VR LO, or ST with another ``longest``: ASCII, no line breaks or backslashes."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    printable = "".join(letter if letter.isprintable() else " " for letter in plain)
    return " ".join(printable.replace("\\", "/").split())[:longest].strip()
