"""Torture the package, and write docs/reliability.md from what became of it.

    python benchmarks/torture.py                 # all groups, about 20 minutes on two cores
    python benchmarks/torture.py --quick         # a sample of each
    python benchmarks/torture.py --only mutants --index 137   # one try again, as a failure names it

Every choice is made from ``--seed``. A failure is written to stderr with its group, index and folder, which is kept.
The exit code is 1 if anything failed or was left behind.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lab.tables import ROOT, commit, hardware
from torment.groups import GROUPS
from torment.page import write_page
from torment.tries import Setting, Try, run_group

FIGURES = ROOT / "benchmarks" / "studies" / "reliability.json"
PAGE = ROOT / "docs" / "reliability.md"
LIBRARIES = ("torch", "monai", "diffusers", "nibabel", "SimpleITK", "pydicom", "highdicom", "pillow", "numpy")


def main() -> int:
    """Run the groups; write the figures and the page where all of them ran; return 1 if anything failed."""
    options = read_options()
    start = time.monotonic()
    chosen_groups = [group for group in GROUPS if options.only in (None, group.name)]
    results = {}
    with_folder = options.folder or Path(tempfile.mkdtemp(prefix="sdseg_torture_"))
    for group in chosen_groups:
        folder = with_folder.absolute() / group.name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        setting = Setting(folder, options.seed, options.jobs)
        say(f"{group.name} ...")
        results[group.name] = run_group(
            group,
            setting,
            options.quick,
            options.index,
            partial(report, folder=folder, seed=options.seed),
        )
        say(summary(group.name, results[group.name]))
    figures = {**about(options), "seconds": round(time.monotonic() - start), "groups": results}
    if options.only is None and not options.dry:
        FIGURES.write_text(json.dumps(figures, indent=1) + "\n")
        PAGE.write_text(write_page(figures))
        say(f"wrote {FIGURES} and {PAGE}")
    has_failed = any(result.get("failed") or result.get("left") for result in results.values())
    if not (has_failed or options.folder):
        shutil.rmtree(with_folder)
    return 1 if has_failed else 0


def read_options() -> argparse.Namespace:
    """Return the command's options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="of all random choices (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="make only a sample of each group's tries")
    parser.add_argument(
        "--only", choices=[group.name for group in GROUPS], metavar="GROUP", help="one group: %(choices)s"
    )
    parser.add_argument("--index", type=int, metavar="N", help="only this try of the group of --only")
    parser.add_argument("--jobs", type=int, default=2, help="tries at the same time (default: %(default)s)")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="for all files, kept (default: a temporary folder)")
    parser.add_argument("--dry", action="store_true", help="do not write the figures and the page")
    options = parser.parse_args()
    if options.index is not None and options.only is None:
        parser.error("--index N needs --only GROUP")
    return options


def about(options: argparse.Namespace) -> dict[str, Any]:
    """Return what the figures depend on: seed, commit, hardware and versions."""
    return {
        "seed": options.seed,
        "quick": options.quick,
        "jobs": options.jobs,
        "commit": commit(),
        "hardware": hardware(),
        "versions": {"Python": sys.version.split()[0], **{name: version(name) for name in LIBRARIES}},
    }


def report(result: Try, folder: Path, seed: int) -> None:
    """Write what is wrong with a try, and how to repeat it."""
    say(f"  FAILED {result.what}: {result.failure or 'left behind'} {' '.join(result.left)}")
    say(f"    {folder}/{result.index:04}; again: --seed {seed} --only {folder.name} --index {result.index}")


def summary(name: str, result: dict[str, Any]) -> str:
    """Return the line of a group."""
    if "skipped" in result:
        return f"{name}: skipped, {result['skipped']}"
    return "{}: {tried} tried, {failed} failed, {left} left behind, {seconds} s".format(name, **result)


def say(line: str) -> None:
    """Write a line to stderr."""
    print(line.encode(errors="backslashreplace").decode(), file=sys.stderr, flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
