"""A run over a folder that is killed at any moment, and resumed, ends as one that was not."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from random import Random

from torment.children import SDSEG, Program, files_left, processes_left, run, start
from torment.examples import write_phantom
from torment.kills import after, when_logged, when_there, while_writing
from torment.tries import Group, Setting, Try

IMAGES = ("a.nii.gz", "b.nrrd", "c.mha", "d.nii")
NUMBER, QUICK = 20, 2
WRITING, BETWEEN, ANY = "while a file is written", "when a file has appeared", "at a random moment"
KINDS = (*[WRITING] * 2, BETWEEN, ANY) * (NUMBER // 4)
RUN_SECONDS = 10.0  # about, from its start to its end
FILES = "**/[!.]*.*"  # that are complete
MANIFEST = "sdseg_manifest.json"


def command(images: Path, output: Path, *options: object) -> list[object]:
    """Return the command: masks and confidence maps by the shipped bundle."""
    return [*SDSEG, "segment", images, "-o", output, "--save-confidence", *options]


def prepare(setting: Setting) -> None:
    """Write the images, and segment them once without a stop."""
    images, whole = setting.common / "images", setting.common / "whole"
    if not whole.exists():
        for seed, name in enumerate(IMAGES):
            write_phantom(images / name, seed)
        code, output = run(command(images, whole), setting.common)
        if code:
            raise SystemExit(f"the uninterrupted run ends with {code}: {output[-2000:]}")


def attempt(setting: Setting, index: int) -> Try:
    """Kill a run, resume it, and compare its masks and maps with the uninterrupted one's."""
    kind, random = KINDS[index], setting.random(index)
    place = setting.place(index)
    output = place / "masks"
    program = start(command(setting.common / "images", output), place, "killed.txt")
    what, is_time = _moment(kind, random, program, output)
    was_killed = program.kill_when(is_time)
    halves = files_left(output)
    left = processes_left(program.mark)
    failure = "" if was_killed else "it ended before that moment came"
    failure = failure or _half_file(setting.common / "whole", output)
    code, text = run(command(setting.common / "images", output, "--resume"), place, "resumed.txt")
    if code:
        failure = f"resumed it ends with {code}: {text[-1000:]}"
    failure = failure or difference(setting.common / "whole", output)
    left += files_left(output, place / "temporary")
    outcome = "with a temporary file at the kill" if halves else "without"
    return Try(index, kind, f"killed {what}", outcome, failure, left)


def _moment(kind: str, random: Random, program: Program, output: Path) -> tuple[str, Callable[[], bool]]:
    count = random.randint(1, 3 * len(IMAGES) - 2)  # of the files for an image: mask, map, JSON, and the manifest
    if kind == WRITING:  # a temporary file lives so briefly that one may not be seen; then it is the next one
        there, writing = when_there(output, FILES, count - 1), while_writing(output, 1, random.choice((0, 1, 500)))
        return f"while a file after the first {count - 1} is written", lambda: there() and writing()
    if kind == BETWEEN:
        return f"when file {count} has appeared", when_there(output, FILES, count)
    seconds = random.uniform(0, RUN_SECONDS)
    if random.random() < 0.5:
        return f"{seconds:.2f} s after its start", after(seconds)
    return "when its first line was written", when_logged(program, "\n", 1)


def hashes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of the masks and maps below a folder, by their paths in it."""
    files = (path for path in sorted(folder.rglob("[!.]*")) if path.is_file() and ".json" not in path.suffix)
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _half_file(whole: Path, output: Path) -> str:
    """Return which file that a killed run left under its name is not complete; empty where none is."""
    complete = hashes(whole)
    half = [name for name, digest in hashes(output).items() if complete.get(name) != digest]
    if half:
        return f"after the kill {half[0]} is there, but is not that of the uninterrupted run"
    for path in output.rglob("[!.]*.json"):
        try:
            json.loads(path.read_text())
        except ValueError:
            return f"after the kill {path.name} is not complete"
    return ""


def difference(whole: Path, output: Path) -> str:
    """Return what of a run differs from the uninterrupted one's; empty where nothing does."""
    expected, found = hashes(whole), hashes(output)
    if expected != found:
        names = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
        return f"{', '.join(names[:3])}: not those of the uninterrupted run"
    json_files = [{path.relative_to(folder) for path in folder.rglob("*.json")} for folder in (whole, output)]
    if json_files[0] != json_files[1]:
        return f"JSON files {json_files[0] ^ json_files[1]} are in one of the two"
    statuses = {case["status"] for case in json.loads((output / MANIFEST).read_text())["cases"].values()}
    return "" if statuses == {"done"} else f"the manifest says {statuses}"


GROUP = Group(
    name="folder_runs",
    title="Folder runs that are killed",
    about=f"`sdseg segment` of a folder of {len(IMAGES)} volumes (NIfTI, NRRD, MHA) is killed with SIGKILL: while a "
    "mask, a map, its JSON file or the manifest is written, when one of them has appeared, or at a random "
    "moment. The command is then given again with `--resume`. Right is that no file under its own name is "
    "incomplete after the kill, that all masks and maps are in the end equal, byte by byte, to those of a run"
    " that was not stopped, and that no temporary file and no process is left.",
    number=NUMBER,
    quick=QUICK,
    attempt=attempt,
    prepare=prepare,
)
