"""The start of the server of ``sdseg label``."""

from __future__ import annotations

import re
import subprocess
import time
from pathlib import Path

import requests

START_SECONDS = 600


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
