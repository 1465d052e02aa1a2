"""Datastores in the environment that has MONAI Label, called by tests in the environment that does not have it.

One JSON object per line: a request has ``method`` and ``args``; the answer has ``result``, ``refused`` or ``crashed``,
and the ``warnings`` that were logged. Tests use it through ``DatastoreProcess``.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

from sdseg_monai.bundle import Bundle
from sdseg_monai.io.segments import Segment
from tests.makers.places import LABEL_BIN, ROOT

PYTHON = LABEL_BIN / "python"


class Refused(Exception):
    """An ``InputError`` of the other side."""


class DatastoreProcess:
    """The process; its methods are those of the datastore that was opened last, and those of :func:`serve`."""

    def __init__(self) -> None:
        threads = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
        path = f"{PYTHON.parent}{os.pathsep}{os.environ['PATH']}"
        self._process = subprocess.Popen(
            [str(PYTHON), str(Path(__file__))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **threads, "PATH": path, "PYTHONPATH": str(ROOT)},
        )
        self.warnings: list[str] = []

    def __call__(self, method: str, *args: Any) -> Any:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps({"method": method, "args": args}, default=str) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        self.warnings = answer["warnings"]
        if "refused" in answer:
            raise Refused(answer["refused"])
        assert "crashed" not in answer, answer["crashed"]
        return answer["result"]

    def close(self) -> None:
        self._process.terminate()
        self._process.communicate()


def write_metadata(root: Path, segments: dict[int, Segment], modality: str) -> Bundle:
    """Write to ``root`` what a bundle says of ``segments`` and ``modality``, and return that bundle."""
    formats = {
        "inputs": {"image": {"modality": modality}},
        "post_processed_outputs": {"pred": {"channel_def": {value: item.name for value, item in segments.items()}}},
    }
    looks = {
        value: {"color": item.colour, **({} if item.code is None else {"code": item.code})}
        for value, item in segments.items()
    }
    (root / "configs").mkdir()
    (root / "configs" / "metadata.json").write_text(json.dumps({"network_data_format": formats, "segments": looks}))
    return Bundle(root)


def serve() -> None:
    from monailabel.config import settings

    from sdseg_monai.errors import InputError
    from sdseg_monai.label.models import ServedModel
    from sdseg_monai.label.names import check_labels
    from sdseg_monai.label.stores import dicom_folder, open_datastore
    from sdseg_monai.label.stores.dicom_seg import describe_segments
    from tests.label.scoring import score_and_serve

    dicom_folder.SCAN_SECONDS = 0  # tests do not wait
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # MONAI Label writes to stdout
    warnings: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            warnings.append(record.getMessage())

    logging.getLogger().addHandler(Collector(logging.WARNING))
    store: Any = None
    segments = {
        1: Segment("anterior", (0, 255, 0), ("10200004", "SCT", "Liver")),
        2: Segment("posterior", (0, 0, 255), None),
    }

    def open_store(studies: str, cache: str, modality: str = "MR") -> str:
        nonlocal store
        bundle = write_metadata(Path(tempfile.mkdtemp()), segments, modality)
        store = open_datastore(studies, [ServedModel(bundle, Path(cache))], Path(cache))
        return type(store).__name__

    def limit_file_size(size: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    def describe(values: list[int], label_info: list[dict[str, Any]], models: list[dict[str, str]]) -> Any:
        model_segments = [
            {int(value): Segment(name, (1, 2, 3), None) for value, name in model.items()} for model in models
        ]
        return describe_segments(values, label_info, model_segments)

    own: dict[str, Any] = {
        "open": open_store,
        "set": lambda name, value: setattr(settings, name, value),
        "limit": limit_file_size,
        "hide": lambda module: sys.modules.update({module: None}),
        "show": lambda module: sys.modules.pop(module),
        "describe": describe,
        "score_and_serve": lambda *folders: score_and_serve(*map(Path, folders)),
        "check_labels": lambda count: check_labels(store, dict(list(segments.items())[:count])),
    }
    for line in sys.stdin:
        request = json.loads(line)
        warnings.clear()
        answer: dict[str, Any] = {"warnings": warnings}
        try:
            method = own.get(request["method"]) or getattr(store, request["method"])
            answer["result"] = method(*request["args"])
        except InputError as error:
            answer["refused"] = str(error)
        except BaseException:
            answer["crashed"] = traceback.format_exc()
        answers.write(json.dumps(answer, default=str) + "\n")
        answers.flush()


if __name__ == "__main__":
    serve()
