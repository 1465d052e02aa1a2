"""Changes of a file's bytes: at random places of any file, and where a format keeps what it says about its content."""

from __future__ import annotations

import copy
import gzip
import io
import json
import math
import struct
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
import pydicom
from nibabel.nifti1 import header_dtype

ODD_NUMBERS = (0, 1, -1, 2, 3, 127, 255, 256, 32767, -32768, 65535, 2**31 - 1, -(2**31), 2**32 - 1, 2**63 - 1)
ODD_FLOATS = (0.0, -1.0, 0.5, 1e-38, 1e30, -3e38, math.inf, -math.inf, math.nan)
ODD_TEXTS = (
    "",
    "0",
    "-1",
    "1e400",
    "nan",
    "inf",
    "3 3",
    "999999999999",
    "x" * 300,
    "\x1b[31m",
    "\u202e",
    "é",
    "%s",
    "../x",
)
ODD_VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    2**70,
    1e300,
    [],
    {},
    [[[]]],
    {"a": {"a": {}}},
    "$__import__('os').abort()",
    "@nothing#0",
    "%nothing.json",
    "\0",
    "../../../etc/passwd",
    *ODD_TEXTS,
)
LARGEST_BLOCK = 64  # bytes that one change inserts, removes or overwrites
# header fields that say nothing about voxels and their places
NIFTI_NOTES = (
    *("data_type", "db_name", "extents", "session_error", "regular", "dim_info", "slice_start", "slice_end"),
    *("slice_code", "cal_max", "cal_min", "slice_duration", "toffset", "glmax", "glmin", "descrip", "aux_file"),
    *("intent_name", "intent_p1", "intent_p2", "intent_p3"),
)
DICOM_NOTES = (
    *("PatientName", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "AccessionNumber", "Manufacturer"),
    *("ReferringPhysicianName", "StudyDescription", "SeriesDescription", "StudyID", "ContentTime"),
)


@dataclass(frozen=True)
class Mutant:
    """A changed file.

    Attributes:
        what: was changed.
        content: bytes of the file.
        is_note: whether only notes were changed, so that the voxels must stay as they are, or the file be refused.
    """

    what: str
    content: bytes
    is_note: bool = False


def mutate(kind: str, content: bytes, random: Random) -> Mutant:
    """Return a mutant of the ``content`` of a file of that kind; the same for the same state of ``random``."""
    special = [mutation for prefix, mutation in SPECIAL.items() if kind.startswith(prefix)]
    for mutation in special if random.random() < 0.6 else []:
        mutant = mutation(content, random)
        if mutant is not None and mutant.content != content:
            return mutant
    return mutate_bytes(content, random)


def mutate_bytes(content: bytes, random: Random) -> Mutant:
    """Flip bits, cut the end, insert, remove, overwrite or repeat bytes, or write an odd number, at random places."""
    changed = bytearray(content)
    # half of the places are near the beginning, where most formats have their headers
    place = random.randrange(len(content) if random.random() < 0.5 else min(512, len(content)))
    length = random.randint(1, LARGEST_BLOCK)
    change = random.choice(("flip", "cut", "insert", "remove", "overwrite", "repeat", "number"))
    if change == "flip":
        places = [place, *(random.randrange(len(content)) for _ in range(random.randrange(8)))]
        for position in places:
            changed[position] ^= 1 << random.randrange(8)
        return Mutant(f"{len(places)} bits flipped, the first in byte {place}", bytes(changed))
    if change == "cut":
        return Mutant(f"cut after {place} of {len(content)} bytes", bytes(changed[:place]))
    if change == "insert":
        changed[place:place] = random.randbytes(length)
        return Mutant(f"{length} bytes inserted at byte {place}", bytes(changed))
    if change == "remove":
        del changed[place : place + length]
        return Mutant(f"{length} bytes removed at byte {place}", bytes(changed))
    if change == "overwrite":
        filling = random.choice((b"\0", b"\xff", b" ", b"9"))
        changed[place : place + length] = filling * len(changed[place : place + length])
        return Mutant(f"{length} bytes from byte {place} are {filling!r}", bytes(changed))
    if change == "repeat":
        changed[place:place] = changed[place : place + length]
        return Mutant(f"{length} bytes from byte {place} twice", bytes(changed))
    size = random.choice((1, 2, 4, 8))
    number = random.choice(ODD_NUMBERS) % (1 << (8 * size))
    order = random.choice(("little", "big"))
    changed[place : place + size] = number.to_bytes(size, "little" if order == "little" else "big")
    return Mutant(f"{number} as {size} bytes, {order} end first, at byte {place}", bytes(changed))


def _mutate_nifti(content: bytes, random: Random) -> Mutant:
    fields = dict(header_dtype.fields or {})
    name = random.choice(sorted(fields))
    dtype, offset = fields[name][:2]
    base, shape = (dtype.subdtype[0], dtype.subdtype[1]) if dtype.subdtype else (dtype, ())
    changed = bytearray(content)
    if base.kind == "S":
        value: Any = random.randbytes(base.itemsize)
        changed[offset : offset + base.itemsize] = value
    else:
        position = random.randrange(math.prod(shape)) if shape else 0
        odd = random.choice(ODD_FLOATS if base.kind == "f" else ODD_NUMBERS)
        with np.errstate(all="ignore"):
            value = np.array(odd if base.kind == "f" else odd % (1 << (8 * base.itemsize))).astype(base)
        start = offset + position * base.itemsize
        changed[start : start + base.itemsize] = value.tobytes()
        name = f"{name}[{position}]" if shape else name
    note = name.split("[")[0] in NIFTI_NOTES
    return Mutant(f"header field {name} is {value!r:.60}", bytes(changed), note)


def _mutate_inside_gzip(content: bytes, random: Random) -> Mutant:
    inner = gzip.decompress(content)
    mutant = _mutate_nifti(inner, random) if random.random() < 0.6 else mutate_bytes(inner, random)
    return Mutant(f"inside: {mutant.what}", gzip.compress(mutant.content, mtime=0), mutant.is_note)


def _mutate_lines(content: bytes, random: Random, separator: str, end: bytes, notes: tuple[str, ...]) -> Mutant | None:
    """Change, remove, repeat, move or add a line of a header of ``key``, ``separator``, ``value``."""
    if end not in content:
        return None
    header, voxels = content[: content.index(end)], content[content.index(end) :]
    lines = header.decode("latin-1").split("\n")
    number = random.randrange(1, len(lines))
    key, found, value = lines[number].partition(separator)
    change = random.choice(("value", "token", "remove", "repeat", "move", "key", "note", "note"))
    if change == "note":
        note = random.choice(notes).format(random.choice(ODD_TEXTS).replace("\n", " "))
        # an extra line after the first, which says what kind of file this is
        lines.insert(random.randrange(1, len(lines)), note)
        text = "\n".join(lines).encode("utf-8")
        return Mutant(f"a line {note!r:.60} more", text + voxels, is_note=True)
    if change == "remove":
        del lines[number]
    elif change == "repeat":
        lines.insert(random.randrange(1, len(lines)), lines[number])
    elif change == "move":
        lines.insert(random.randrange(1, len(lines)), lines.pop(number))
    elif change == "key":
        lines[number] = random.choice((key.upper(), key.lower(), f" {key}", f"{key} ", f"{key}\r")) + found + value
    elif change == "token" and value.split():
        tokens = value.split()
        tokens[random.randrange(len(tokens))] = random.choice(
            (*ODD_TEXTS, *map(str, ODD_NUMBERS), *map(str, ODD_FLOATS))
        )
        lines[number] = f"{key}{found}{' '.join(tokens)}"
    else:
        lines[number] = f"{key}{found}{random.choice(ODD_TEXTS)}"
    text = "\n".join(lines).encode("utf-8")
    return Mutant(f"header line {number} ({key.strip()!r}): {change}", text + voxels)


def _mutate_nrrd(content: bytes, random: Random) -> Mutant | None:
    return _mutate_lines(content, random, ": ", b"\n\n", ("# {}", "a key:={}", "content: {}"))


def _mutate_mha(content: bytes, random: Random) -> Mutant | None:
    return _mutate_lines(content, random, " = ", b"\nElementDataFile", ("Comment = {}", "Name = {}", "Modality = {}"))


def _mutate_dicom(content: bytes, random: Random) -> Mutant | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(5):  # pydicom does not write every value
            dataset = pydicom.dcmread(io.BytesIO(content))
            is_note = random.random() < 0.3
            elements = [element for element in dataset if element.keyword not in ("", "PixelData")]
            keyword = random.choice(DICOM_NOTES if is_note else sorted(element.keyword for element in elements))
            value: Any = random.choice(
                ("", "x" * 40, "Mustermann^Jörg", "0", "-1", "1\\2\\3", "nan", "\x1b[31m", "é\u202e")
            )
            if not is_note and random.random() < 0.5:
                value = random.choice((0, 1, -1, 65535, 1e300, -0.5, [], [0, 0, 0, 0, 0, 0], None))
            output = io.BytesIO()
            try:
                setattr(dataset, keyword, value)
                pydicom.dcmwrite(output, dataset)
            except Exception:  # whatever pydicom raises for a value of another type
                continue
            return Mutant(f"{keyword} is {value!r:.60}", output.getvalue(), is_note)
    return None


def _mutate_json(content: bytes, random: Random) -> Mutant:
    tree = json.loads(content)
    parents = [
        (node, key) for node in _containers(tree) for key in (node if isinstance(node, dict) else range(len(node)))
    ]
    node, key = random.choice(parents)
    value = copy.deepcopy(random.choice(ODD_VALUES))
    if random.random() < 0.3:
        del node[key]
        what = f"{key!r} is gone"
    else:
        node[key] = value
        what = f"{key!r} is {value!r:.60}"
    return Mutant(what, json.dumps(tree, indent=1).encode("utf-8", "surrogatepass"))


def _containers(node: Any) -> list[Any]:
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    inner = [container for child in children for container in _containers(child)]
    return [node, *inner] if isinstance(node, dict | list) and node else inner


def _mutate_csv(content: bytes, random: Random) -> Mutant:
    rows = [line.split(",") for line in content.decode().splitlines()]
    row = random.choice(rows)
    column = random.randrange(len(row))
    change = random.choice(("cell", "column", "separator", "encoding", "quote"))
    if change == "cell":
        row[column] = random.choice(ODD_TEXTS)
    elif change == "column":
        row.insert(column, random.choice(ODD_TEXTS))
    elif change == "quote":
        row[column] = f'"{row[column]}'
    separator = random.choice((";", "\t")) if change == "separator" else ","
    text = "\n".join(separator.join(row) for row in rows)
    encoding = random.choice(("utf-16", "utf-8-sig", "utf-32")) if change == "encoding" else "utf-8"
    return Mutant(f"{change} {column} of a row, {encoding}", text.encode(encoding))


def _mutate_member(content: bytes, random: Random) -> Mutant | None:
    """Change one member of a zip file, with the right checksum of its new content."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    compression = zipfile.ZIP_DEFLATED if any(name.endswith(".json") for name in members) else zipfile.ZIP_STORED
    name = random.choice([name for name, member in members.items() if member])
    pickles = [name for name in members if name.endswith("data.pkl")]
    name = random.choice(pickles) if pickles and random.random() < 0.7 else name
    mutant = mutate_bytes(members[name], random)
    output = io.BytesIO()
    with zipfile.ZipFile(output, "w", compression) as archive:
        for member, data in members.items():
            archive.writestr(zipfile.ZipInfo(member), mutant.content if member == name else data, compression)
    return Mutant(f"{name}: {mutant.what}", output.getvalue())


def _mutate_safetensors(content: bytes, random: Random) -> Mutant:
    (length,) = struct.unpack_from("<Q", content)
    header = json.loads(content[8 : 8 + length])
    name = random.choice(sorted(set(header) - {"__metadata__"}))
    field = random.choice(("dtype", "shape", "data_offsets"))
    value: object = random.choice(("F64", "I8", "", [], [0], [2**62], [2**40, 2**40], [-1, 4], [0, 2**63], None, {}))
    header[name][field] = value
    text = json.dumps(header).encode()
    return Mutant(f"{field} of {name} is {value!r}", struct.pack("<Q", len(text)) + text + content[8 + length :])


# by the beginning of a kind's name
SPECIAL: dict[str, Callable[[bytes, Random], Mutant | None]] = {
    "NIfTI, gzip": _mutate_inside_gzip,
    "NIfTI": lambda content, random: None if content[:2] == b"\x1f\x8b" else _mutate_nifti(content, random),
    "NRRD": _mutate_nrrd,
    "MHA": _mutate_mha,
    "DICOM": _mutate_dicom,
    "datalist, JSON": _mutate_json,
    "manifest": _mutate_json,
    "bundle metadata": _mutate_json,
    "bundle config": _mutate_json,
    "overlay, JSON": _mutate_json,
    "datalist, CSV": _mutate_csv,
    "bundle, zip": _mutate_member,
    "weights, torch before": lambda content, random: None,
    "weights, torch": lambda content, random: _mutate_member(content, random) if content[:2] == b"PK" else None,
    "weights, safetensors": _mutate_safetensors,
}
