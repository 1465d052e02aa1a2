"""The manifest of a run over many images: a JSON file beside the masks, for programs and to resume the run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self, TextIO

from sdseg_monai.errors import InputError
from sdseg_monai.io.dicom import DICOM_SUFFIX, is_whole_seg
from sdseg_monai.io.files import write_atomically
from sdseg_monai.io.pictures import is_picture, read_picture, read_picture_mask
from sdseg_monai.io.sources import Source, hash_source, load_source, source_name
from sdseg_monai.io.volumes import check_same_grid, read_volume

FILE_NAME = "sdseg_manifest.json"


class Shard(NamedTuple):
    """One of several parts of a folder's images, each done by a process of its own, perhaps on another machine.

    To which part an image belongs depends on its name alone, so that nobody must tell anybody.

    Attributes:
        number: of the part, from 1.
        total: number of parts.
    """

    number: int
    total: int

    def has(self, name: str) -> bool:
        """Tell whether the image with this name belongs to this part."""
        return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") % self.total == self.number - 1


class Manifest:
    """The manifest of one run: while it lasts a journal, to which each case adds a line, and at its end one JSON file.

    Use it as a context: its end, also by an error or an interruption, makes the file and removes the journal. After
    a kill the journal is still there, and :meth:`resume` reads it.

    Attributes:
        path: the file.
        about: versions and device, which do not change a mask.
        settings: everything that the masks depend on: bundle, hashes of weights and overlays, seed, options.
        left_out: the files and folders beside the images that were left out, each with the reason.
        cases: the entry of each image by the image's name, see :func:`~sdseg_monai.inference.batch.segment_many`.
    """

    def __init__(self, path: Path, about: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
        self.path = path
        self.about = dict(about)
        self.settings = dict(settings)
        self.left_out: dict[str, str] = {}
        self.cases: dict[str, dict[str, Any]] = {}
        self._is_resumed = False
        self._file: TextIO | None = None

    @classmethod
    def resume(cls, path: Path, about: Mapping[str, Any], settings: Mapping[str, Any]) -> Self:
        """Return the manifest of the run that wrote ``path`` or its journal, or a new one where there is neither.

        Raises:
            InputError: a file is not a manifest, or it belongs to a run with other settings.
        """
        manifest = cls(path, about, settings)
        manifest._is_resumed = True
        for file in (path, journal_of(path)):
            if not file.exists():
                continue
            try:
                old_settings, cases = _read_manifest(file) if file == path else _read_journal(file)
            except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
                raise InputError(f"{file}: no manifest of a run ({error!r:.200}); remove it to start anew") from error
            if old_settings is not None:
                manifest._check_settings(file, old_settings)
            manifest.cases |= cases
        return manifest

    def _check_settings(self, file: Path, old_settings: Mapping[str, Any]) -> None:
        for name, value in json.loads(json.dumps(self.settings)).items():
            if old_settings.get(name) != value:
                raise InputError(
                    f"{file}: is of a run with {name} {old_settings.get(name)!r}, now it is {value!r}: resume with the "
                    "same settings, or name another output"
                )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error_type: object, *_: object) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
        # a run without images, as of a small part of a folder, has an end too
        if journal_of(self.path).exists() or (error_type is None and not self.path.exists()):
            self._fold()

    def _fold(self) -> None:
        """Write the file, and remove the journal."""
        names = ("about", "settings", "left_out", "cases")
        content = {name: getattr(self, name) for name in names}
        write_atomically(self.path, lambda temporary: temporary.write_text(json.dumps(content, indent=1) + "\n"))
        journal_of(self.path).unlink(missing_ok=True)

    def is_done(self, source: Source, outputs: Iterable[Path], pixel_mm: float | None = None) -> bool:
        """Tell whether this very image was segmented, and each of its ``outputs`` is complete and on its grid.

        Its sizes and measures are then those of pixels of the same size, ``pixel_mm``.
        """
        case = self.cases.get(source_name(source), {})
        try:
            if case.get("pixel_mm") != pixel_mm:
                return False
            if case.get("status") != "done" or case.get("input_sha256") != hash_source(source):
                return False
            return _is_readable(case) and _are_whole(source, list(outputs))
        except (OSError, ValueError, RecursionError):  # an InputError is a ValueError
            return False

    def record(self, source: Source, **case: Any) -> None:
        """Set the entry of an image, and add it to the journal.

        Raises:
            InputError: the folder cannot be written.
        """
        name = source_name(source)
        self.cases[name] = case
        try:
            if self._file is None:
                self._file = self._start_journal()
            self._file.write(json.dumps({"name": name, "case": case}) + "\n")
            self._file.flush()  # to the system: what a killed process has flushed is not lost
        except OSError as error:
            raise InputError(f"{journal_of(self.path)}: cannot be written ({error.strerror})") from error

    def _start_journal(self) -> TextIO:
        journal = journal_of(self.path)
        if not self._is_resumed:
            self.path.unlink(missing_ok=True)  # of another run
        elif journal.exists():
            self._fold()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        file = journal.open("w")
        file.write(json.dumps({"about": self.about, "settings": self.settings}) + "\n")
        return file


def shard_manifest(path: Path, shard: Shard) -> Path:
    """Return the manifest of one of several parts of the run whose manifest is ``path``."""
    return path.with_name(f"{path.stem}.{shard.number}-of-{shard.total}{path.suffix}")


def merge_shards(path: Path, count: int) -> bool:
    """Write the manifest of a run in ``count`` parts, if all of them have ended; return whether they have.

    Each part that ends calls this, and the last one finds all manifests. They stay, so that it does not matter if two
    end at once.

    Raises:
        InputError: the manifest of a part is damaged or has other settings, or the file cannot be written.
    """
    files = [shard_manifest(path, Shard(index, count)) for index in range(1, count + 1)]
    if any(journal_of(file).exists() or not file.exists() for file in files):
        return False
    content: dict[str, Any] = {}
    for file in files:
        try:
            part = json.loads(file.read_text())
            content = content or {**part, "cases": {}}
            is_same = part["settings"] == content["settings"]
            content["cases"] |= part["cases"]
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            raise InputError(f"{file}: no manifest of a run ({error!r:.200}); do this part again") from error
        if not is_same:
            raise InputError(f"{file}: has other settings than {files[0].name}: do all parts with the same")
    content["cases"] = dict(sorted(content["cases"].items()))
    write_atomically(path, lambda temporary: temporary.write_text(json.dumps(content, indent=1) + "\n"))
    return True


def journal_of(path: Path) -> Path:
    """Return the journal of the run whose manifest is ``path``."""
    return path.with_suffix(".jsonl")


def _read_manifest(path: Path) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Return settings and cases."""
    content = json.loads(path.read_text())
    return dict(content["settings"]), {name: dict(case) for name, case in content["cases"].items()}


def _read_journal(path: Path) -> tuple[dict[str, Any] | None, dict[str, dict[str, Any]]]:
    """Return settings, None where there is no line, and cases; a last line that a kill has cut is passed over."""
    entries = [json.loads(line) for line in path.read_text().split("\n")[:-1]]
    if not entries:
        return None, {}
    return dict(entries[0]["settings"]), {entry["name"]: dict(entry["case"]) for entry in entries[1:]}


def case_warnings(case: Mapping[str, Any]) -> list[str]:
    """Return the texts of the warnings about a case, without those that its mark NOT TRUSTED says."""
    is_marked = bool(case.get("not_trusted"))
    return [warning["text"] for warning in case["warnings"] if not (is_marked and warning["contradiction"])]


def _is_readable(case: Mapping[str, Any]) -> bool:
    """Tell whether an entry of the manifest has all that tables and reports need, in the form of this version."""
    sizes = [case.get(name, {}) for name in ("volume_ml", "pixels", "area_mm2")]
    numbers: list[Any] = [case.get("seconds")]
    for size in sizes:
        if not isinstance(size, dict):
            return False
        for value in size.values():
            numbers += [value.get(n) for n in ("mask", "smallest", "largest")] if isinstance(value, dict) else [value]
    measures = case.get("measures", {})
    if not isinstance(measures, dict) or not all(isinstance(values, dict) for values in measures.values()):
        return False
    numbers += [value for values in measures.values() for value in values.values() if value is not None]
    warnings = case.get("warnings")
    if not isinstance(warnings, list) or not all(isinstance(warning, dict) for warning in warnings):
        return False  # as in a manifest of 0.4.0, whose warnings were texts
    if not all("contradiction" in warning for warning in warnings):
        return False  # as in a manifest of before contradictions were refused
    texts = [warning.get("text") for warning in warnings]
    return all(isinstance(n, int | float) for n in numbers) and all(isinstance(text, str) for text in texts)


def _are_whole(source: Source, outputs: list[Path]) -> bool:
    """Tell whether the files are complete; the grid of a DICOM SEG, and of a picture's maps, is not compared.

    Raises:
        InputError: a file cannot be read.
    """
    pictures = [path for path in outputs if is_picture(path)]
    segs = [path for path in outputs if path.suffix.lower() == DICOM_SUFFIX]
    json_files = [path for path in outputs if path.suffix.lower() == ".json"]
    volumes = [path for path in outputs if path not in (*pictures, *segs, *json_files)]
    for path in json_files:
        json.loads(path.read_text())
    volume_of_file = {path: read_volume(path, on_disk=True) for path in volumes}
    image = load_source(source)
    if isinstance(image, Path):
        return all(read_picture_mask(path).shape == read_picture(image).shape[1:] for path in pictures)
    for path, volume in volume_of_file.items():
        check_same_grid(Path(source_name(source)), image, path, volume)
    return all(is_whole_seg(path) for path in segs)
