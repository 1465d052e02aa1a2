"""Write the hashed lock files beside this script, from what pip would install by the constraints: make lock.

Each file lists every package that one make target installs, with its version and the SHA-256 of the file that pip takes
for CPython 3.11 on Linux x86_64. torch and torchvision are left out, and the CUDA libraries that come with them: which
build is right depends on the machine, and each has another hash. They stay pinned by version.
"""

from __future__ import annotations

import json
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PLATFORM = ("cpython", (3, 11), "Linux", "x86_64")
TORCH = "torch==2.13.0"
# of each make target: what is installed, and by which constraints
TARGETS = {
    "demo": ([TORCH, "setuptools", "-e", "."], "constraints.txt"),
    "test": ([TORCH, "setuptools", "-e", ".[dev]"], "constraints.txt"),
    "label-env": ([TORCH, "torchvision==0.28.0", "setuptools", "-e", ".[label]"], "constraints-label.txt"),
}
LEFT_OUT = re.compile(r"torch|torchvision|triton|(nvidia|cuda)-.*")


def resolve(requirements: list[str], constraints: str) -> list[dict[str, Any]]:
    """Return what pip would install, as in its installation report."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed", "--report", "-"]
    process = subprocess.run([*command, "-c", constraints, *requirements], cwd=ROOT, capture_output=True, text=True)
    if process.returncode:
        raise SystemExit(f"pip cannot install {' '.join(requirements)}: {process.stderr[-3000:]}")
    return json.loads(process.stdout)["install"]


def lock(packages: list[dict[str, Any]]) -> str:
    """Return a lock file of an installation report's packages, sorted by name; those without an archive are ours."""
    entries = {}
    for package in packages:
        name, version = (package["metadata"][key] for key in ("name", "version"))
        name = re.sub(r"[-_.]+", "-", name).lower()
        archive = package["download_info"].get("archive_info")
        if archive is not None and not LEFT_OUT.fullmatch(name):
            entries[name] = f"{name}=={version} --hash=sha256:{archive['hashes']['sha256']}\n"
    return "".join(entries[name] for name in sorted(entries))


def main() -> None:
    """Write the lock files of the targets on the command line, by default of all."""
    here = (sys.implementation.name, sys.version_info[:2], platform.system(), platform.machine())
    if here != PLATFORM:
        raise SystemExit(f"this is {here}, expected {PLATFORM}: the hashes are of files for that")
    for target in sys.argv[1:] or TARGETS:
        text = lock(resolve(*TARGETS[target]))
        header = f"# What make {target} installs, on CPython 3.11, Linux x86_64; made by make lock\n"
        (ROOT / "locks" / f"{target}.txt").write_text(header + text)


if __name__ == "__main__":
    main()
