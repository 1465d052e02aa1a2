"""The server of ``sdseg label`` as a process, and requests to it."""

from __future__ import annotations

import json
import re
import subprocess
import time
from pathlib import Path

import requests

START_SECONDS, ANSWER_SECONDS = 600, 600


def wait_for_server(process: subprocess.Popen[bytes], log: Path) -> str:
    """Return the server's URL once it answers.

    Raises:
        SystemExit: it ends, or does not answer for long.
    """
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        address = re.search(r" at (http://\S+?),", log.read_text())
        try:
            if address and requests.get(f"{address[1]}/info/", timeout=10).ok:
                return address[1]
        except requests.RequestException:
            pass
        time.sleep(0.2)
    raise SystemExit(f"the label server did not start:\n{log.read_text()[-3000:]}")


def infer(url: str, image: str) -> bytes:
    """Return the file of a mask, requested as a viewer does."""
    form = {"params": (None, json.dumps({"device": "cpu", "result_extension": ".nii.gz", "force": True}))}
    answer = requests.post(url, params={"image": image, "output": "image"}, files=form, timeout=ANSWER_SECONDS)
    return read_answer(answer).content


def read_answer(answer: requests.Response) -> requests.Response:
    """Return the ``answer`` of a server.

    Raises:
        SystemExit: it is an error.
    """
    if not answer.ok:
        raise SystemExit(f"{answer.url}: {answer.status_code}, {answer.text[-3000:]}")
    return answer
