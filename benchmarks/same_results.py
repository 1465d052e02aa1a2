"""Compare the masks and scores of two commits bit by bit.

    python benchmarks/same_results.py --before d842514 --after HEAD -o results

The code of each commit segments the same images through each door (the command, Python, ``monai.bundle run``, the
label server), on the CPU with one thread: ten MR volumes and one CT volume, a DICOM series of CT, and three
photographs. Volumes are segmented with the commit's own embedded bundle, photographs with a tiny bundle that the
earlier commit trains here.
Masks and maps (scores, confidence, entropy) are compared voxel by voxel between the commits, and the masks of one
commit between its doors. This takes a few minutes. The exit code is 1 if anything differs.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import requests
from PIL import Image

from lab.label_server import wait_for_server
from lab.tables import ROOT, markdown_table

BUNDLE = "hippocampus_sdseg"
VOLUMES, SERIES, PICTURES = "volumes", "series", "pictures"  # folders of inputs, and of every door's outputs
CT, DICOM = "example_ct", "ct_dicom"
NUM_VOLUMES, NUM_PICTURES, NUM_TRAINING_PICTURES = 10, 3, 24
TRAINING_SIZE, TRAINING_EPOCHS = (96, 96), 6
ARRAY_SUFFIXES = (".nii.gz", ".nii", ".png", ".npy")
SEGMENT = ("-m", "sdseg_monai.cli", "segment", "--quiet")
MAPS = ("--save-score", "--save-confidence")
RUN = ("-m", "monai.bundle", "run")
ANSWER_SECONDS, STOP_SECONDS = 600, 60  # of the label server
WHITE = 255  # foreground in a picture's mask
ONE_THREAD_ON_CPU = {
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "GOMP_SPINCOUNT": "0",
    "CUDA_VISIBLE_DEVICES": "",
}
PYTHON_PROGRAM = """
import json, sys
from pathlib import Path
import numpy as np
from sdseg_monai import segment
force = {"force": True} if sys.argv[1:] == ["--force"] else {}
for image, bundle, mask in json.load(sys.stdin):
    result, mask = segment(image, bundle=bundle, **force), Path(mask)
    for folder, array in ("", result.labels), ("scores", result.scores), ("confidence", result.confidence):
        path = mask.parent / folder / mask.name
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, array)
"""


@dataclass(frozen=True)
class Commit:
    """A commit's code in a folder of its own.

    Attributes:
        name: ``before`` or ``after``.
        revision: the commit's hash.
        code: the folder.
    """

    name: str
    revision: str
    code: Path

    @property
    def environment(self) -> dict[str, str]:
        """The variables under which this code runs, whatever else is installed."""
        return {**os.environ, **ONE_THREAD_ON_CPU, "PYTHONPATH": str(self.code)}

    @property
    def force(self) -> tuple[str, ...]:
        """The option for images that contradict the training, as the CT does; empty where the code refuses none."""
        command = self.code / "sdseg_monai" / "cli" / "segment.py"
        return ("--force",) if '"--force"' in command.read_text() else ()

    def run(self, *arguments: str | Path, python: Path = Path(sys.executable), text: str = "") -> str:
        """Run ``python`` with ``arguments`` in the code's folder and ``text`` as its input; return what it writes.

        Raises:
            SystemExit: it fails; with the end of what it wrote to stderr.
        """
        command = [str(python), *map(str, arguments)]
        process = subprocess.run(
            command, cwd=self.code, env=self.environment, input=text, capture_output=True, text=True
        )
        if process.returncode:
            raise SystemExit(
                f"{self.name}: {' '.join(command)} ended with {process.returncode}:\n{process.stderr[-3000:]}"
            )
        return process.stdout

    def check_is_imported(self, python: Path) -> None:
        """Raise :class:`SystemExit` if ``python`` would run other code, such as one installed beside it."""
        program = "import importlib.util; print(importlib.util.find_spec('sdseg_monai').origin)"
        origin = Path(self.run("-c", program, python=python).strip())
        if not origin.resolve().is_relative_to(self.code.resolve()):
            raise SystemExit(f"{self.name}: {python} imports {origin}, expected the code in {self.code}")


@dataclass(frozen=True)
class Inputs:
    """The images that all doors of both commits segment.

    Attributes:
        root: folder with :data:`VOLUMES`, :data:`SERIES` and :data:`PICTURES`.
        bundle: the bundle for pictures.
        cases: names of the images in each of these folders; a series is one.
    """

    root: Path
    bundle: Path
    cases: dict[str, list[str]]

    def image(self, group: str, case: str) -> Path:
        """Return the file of an image, or the folder of a series."""
        return self.root / SERIES if group == SERIES else next((self.root / group).glob(f"{case}.*"))


@dataclass(frozen=True)
class Door:
    """A way to segment.

    Attributes:
        name: name in the table.
        cases: ``group/case`` of each image that it segments.
        segment: writes the outputs of a commit into a folder: the mask of each case as ``group/case`` with one of
            :data:`ARRAY_SUFFIXES`, and the maps under other names.
    """

    name: str
    cases: Sequence[str]
    segment: Callable[[Commit, Path], None]


def main() -> int:
    """Segment with both commits, compare, and write the table; return 1 if anything differs."""
    options = read_options()
    options.output.mkdir(parents=True, exist_ok=True)
    if any(options.output.iterdir()):
        raise SystemExit(f"{options.output}: is not empty, and older results would be compared; name a new folder")
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        with checkout("before", options.before, root) as before, checkout("after", options.after, root) as after:
            inputs = prepare_inputs(before, options.shared / "data", root)
            doors = open_doors(inputs, label_python(options.label_python))
            for commit in (before, after):
                pass_doors(commit, doors, options.output / commit.name)
    rows, differences = compare_commits(doors, options.output)
    seconds = round(time.monotonic() - start)
    write_figures(options.output / "same_results.json", before, after, rows, differences, seconds)
    say(*differences)
    say(f"\n{before.revision[:10]} and {after.revision[:10]}, {seconds} s.\n")
    say(markdown_table(list(rows[0]), [list(row.values()) for row in rows]))
    return 1 if differences else 0


def read_options() -> argparse.Namespace:
    """Return the command's options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", required=True, metavar="COMMIT", help="the earlier commit")
    parser.add_argument("--after", default="HEAD", metavar="COMMIT", help="the later commit (default: %(default)s)")
    shared = Path(os.environ.get("SDSEG_SHARED", ROOT.parent / "shared"))
    parser.add_argument("--shared", type=Path, default=shared, metavar="DIR", help="with data/ (default: %(default)s)")
    python = ROOT / ".venv-label" / "bin" / "python"
    parser.add_argument(
        "--label-python",
        type=Path,
        default=python,
        metavar="FILE",
        help="python of the label server's environment (default: that of make label-env)",
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="new folder for all outputs")
    options = parser.parse_args()
    for name in ("shared", "output", "label_python"):  # commands in other folders need absolute paths
        setattr(options, name, getattr(options, name).absolute())
    return options


def label_python(python: Path) -> Path | None:
    """Return the python of the label server's environment; if there is none, say so and return None."""
    if python.is_file():
        return python
    say(f"label server: skipped, there is no {python}; make label-env makes it")
    return None


@contextmanager
def checkout(name: str, revision: str, root: Path) -> Iterator[Commit]:
    """Check ``revision`` out into ``root``/``name``; the folder is removed from git's list afterwards."""
    code = root / name
    git("worktree", "add", "--quiet", "--detach", str(code), revision)
    try:
        yield Commit(name, git("-C", str(code), "rev-parse", "HEAD"), code)
    finally:
        git("worktree", "remove", "--force", str(code))


def git(*arguments: str) -> str:
    """Run git in this checkout and return what it writes."""
    process = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
    if process.returncode:
        raise SystemExit(f"git {' '.join(arguments)}: {process.stderr}")
    return process.stdout.strip()


def prepare_inputs(before: Commit, data: Path, root: Path) -> Inputs:
    """Copy the images into ``root``/inputs, and train the bundle for pictures on others."""
    folder = root / "inputs"
    hippocampus, example, kvasir = (
        data / name for name in ("msd-hippocampus", "totalsegmentator-example", "kvasir-seg-256")
    )
    datalist = json.loads((before.code / "bundles" / BUNDLE / "configs" / "datalist.json").read_text())
    volumes = [hippocampus / item["image"] for item in datalist["test"][:NUM_VOLUMES]]
    volumes.append(example / f"{CT}.nii.gz")
    pictures = sorted((kvasir / "images").iterdir())
    for group, files in {VOLUMES: volumes, PICTURES: pictures[:NUM_PICTURES]}.items():
        (folder / group).mkdir(parents=True)
        for file in files:
            shutil.copy(file, folder / group)
    shutil.copytree(example / DICOM, folder / SERIES)
    cases = {
        VOLUMES: [file.name.removesuffix(".nii.gz") for file in volumes],
        SERIES: [DICOM],
        PICTURES: [file.stem for file in pictures[:NUM_PICTURES]],
    }
    training = pictures[NUM_PICTURES : NUM_PICTURES + NUM_TRAINING_PICTURES]
    with timed("a tiny bundle for pictures"):
        bundle = train_bundle(before, training, kvasir / "masks", root / "pictures_sdseg")
    return Inputs(folder, bundle, cases)


def train_bundle(before: Commit, images: Sequence[Path], masks: Path, bundle: Path) -> Path:
    """Make and train a bundle on small copies of ``images`` and of their ``masks``; return its folder."""
    data = bundle.with_name("training")
    for image in images:
        for kind, file in {"images": image, "masks": next(masks.glob(f"{image.stem}.*"))}.items():
            (data / kind).mkdir(parents=True, exist_ok=True)
            Image.open(file).resize(TRAINING_SIZE).save(data / kind / f"{image.stem}.png")
    folders = ("--images", data / "images", "--labels", data / "masks")
    before.run("-m", "sdseg_monai.cli", "init-bundle", *folders, "-o", bundle, "--minutes", "1", "--quiet")
    epochs = ("--epochs", str(TRAINING_EPOCHS), "--val_interval", str(TRAINING_EPOCHS))
    before.run(*RUN, "training", "--config_file", bundle / "configs" / "train.json", *epochs)
    return bundle


def open_doors(inputs: Inputs, label: Path | None) -> list[Door]:
    """Return the doors; the label server is one of them if ``label`` is the python of its environment."""

    def cases(*groups: str) -> list[str]:
        return [f"{group}/{case}" for group in groups for case in inputs.cases[group]]

    all_cases = cases(VOLUMES, SERIES, PICTURES)
    doors = [
        Door("command", all_cases, partial(by_command, inputs)),
        Door("command, --uncertainty flips", all_cases[:1], partial(by_command_with_flips, inputs, all_cases[0])),
        Door("Python", all_cases, partial(by_python, inputs)),
        Door("monai.bundle run inference", cases(VOLUMES, PICTURES), partial(by_bundle, inputs)),
    ]
    if label is not None:
        doors.append(Door("label server", cases(VOLUMES, SERIES), partial(by_label_server, inputs, label)))
    return doors


def pass_doors(commit: Commit, doors: Sequence[Door], output: Path) -> None:
    """Segment with ``commit`` through every door, each into a folder of its name in ``output``."""
    commit.check_is_imported(Path(sys.executable))
    for door in doors:
        folder = output / door.name
        folder.mkdir(parents=True)
        with timed(f"{commit.name}: {door.name}"):
            door.segment(commit, folder)


def by_command(inputs: Inputs, commit: Commit, folder: Path) -> None:
    """Segment with ``sdseg segment``."""
    commit.run(*SEGMENT, inputs.root / VOLUMES, "-o", folder / VOLUMES, *MAPS, *commit.force)
    (folder / SERIES).mkdir()
    commit.run(*SEGMENT, inputs.root / SERIES, "-o", folder / SERIES / f"{DICOM}.nii", *MAPS, *commit.force)
    commit.run(*SEGMENT, inputs.root / PICTURES, "-o", folder / PICTURES, *MAPS, "--bundle", inputs.bundle)


def by_command_with_flips(inputs: Inputs, case: str, commit: Commit, folder: Path) -> None:
    """Segment one volume with ``sdseg segment`` and write the entropy."""
    group, name = case.split("/")
    (folder / group).mkdir()
    output = folder / group / f"{name}.nii.gz"
    commit.run(*SEGMENT, inputs.image(group, name), "-o", output, *MAPS, "--uncertainty", "flips")


def by_python(inputs: Inputs, commit: Commit, folder: Path) -> None:
    """Segment with ``sdseg_monai.segment`` and save the arrays."""
    bundles = {VOLUMES: BUNDLE, SERIES: BUNDLE, PICTURES: str(inputs.bundle)}
    tasks = [
        (str(inputs.image(group, case)), bundles[group], str(folder / group / f"{case}.npy"))
        for group, cases in inputs.cases.items()
        for case in cases
    ]
    commit.run("-c", PYTHON_PROGRAM, *commit.force, text=json.dumps(tasks))


def by_bundle(inputs: Inputs, commit: Commit, folder: Path) -> None:
    """Segment with the bundles' own ``inference.json``."""
    for group, bundle in {VOLUMES: commit.code / "bundles" / BUNDLE, PICTURES: inputs.bundle}.items():
        config = ("--config_file", bundle / "configs" / "inference.json", "--bundle_root", bundle)
        force = ("--preprocessing#transforms#1#force", "true") if commit.force and group == VOLUMES else ()
        folders = ("--dataset_dir", inputs.root / group, "--output_dir", folder / group)
        commit.run(*RUN, "inference", *config, *folders, *force)


def by_label_server(inputs: Inputs, python: Path, commit: Commit, folder: Path) -> None:
    """Segment with a server of the volumes, and with one of the DICOM series."""
    commit.check_is_imported(python)
    for group in (VOLUMES, SERIES):
        (folder / group).mkdir()
        with tempfile.TemporaryDirectory() as name:
            work_dir, bundle = Path(name), commit.code / "bundles" / BUNDLE
            if group == SERIES:
                bundle = copy_for_ct(bundle, work_dir / "bundles")
            studies = Path(shutil.copytree(inputs.root / group, work_dir / "studies"))  # the server writes into it
            with label_server(commit, python, studies, bundle, work_dir) as url:
                for case in inputs.cases[group]:
                    image = only_image(url) if group == SERIES else case
                    mask = infer(f"{url}/infer/{bundle.name}", image)
                    (folder / group / f"{case}.nii.gz").write_bytes(mask)


def only_image(url: str) -> str:
    """Return the id of a server's only image; the server makes a UID for a series that has none."""
    answer = requests.post(f"{url}/activelearning/random", json={}, timeout=ANSWER_SECONDS)
    return str(read_answer(answer).json()["id"])


def copy_for_ct(bundle: Path, folder: Path) -> Path:
    """Return a copy of ``bundle`` in ``folder`` with the modality CT: a server lists only series of its modalities."""
    copy = Path(shutil.copytree(bundle, folder / bundle.name))
    metadata = copy / "configs" / "metadata.json"
    metadata.write_text(metadata.read_text().replace('"modality": "MR"', '"modality": "CT"'))
    return copy


@contextmanager
def label_server(commit: Commit, python: Path, studies: Path, bundle: Path, work_dir: Path) -> Iterator[str]:
    """Run ``sdseg label`` on a free port and yield its URL."""
    log = work_dir / "output.txt"
    command = [python, "-m", "sdseg_monai.cli", "label", "--studies", studies, "--bundle", bundle, "--port", "0"]
    with log.open("w") as output:
        process = subprocess.Popen(
            [*map(str, command), "--work-dir", str(work_dir / "work")],
            cwd=commit.code,
            env=commit.environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield wait_for_server(process, log)
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()


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


@dataclass(frozen=True)
class Comparison:
    """The difference of two files.

    Attributes:
        reason: what differs; empty if they are equal bit by bit.
        largest: largest difference of two voxels; infinite if the voxels cannot be compared.
    """

    reason: str = ""
    largest: float = 0.0


def compare_files(before: Path | None, after: Path | None) -> Comparison:
    """Compare dtype, grid and voxels of two files; None for a missing file."""
    if before is None or after is None or not (before.is_file() and after.is_file()):
        return Comparison("missing", np.inf)
    (array, affine), (new_array, new_affine) = read_array(before), read_array(after)
    if array.dtype != new_array.dtype or array.shape != new_array.shape:
        text = f"{array.dtype} {list(array.shape)} became {new_array.dtype} {list(new_array.shape)}"
        return Comparison(text, np.inf)
    if array.tobytes() != new_array.tobytes():
        return Comparison("voxels differ", float(np.abs(array.astype(np.float64) - new_array).max()))
    if not np.array_equal(affine, new_affine):
        return Comparison("affines differ", np.inf)
    return Comparison()


def read_array(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the array of a file as it is stored, and its affine; the identity if it has none."""
    if path.suffix == ".npy":
        return np.load(path), np.eye(4)
    if path.suffix == ".png":
        return np.asarray(Image.open(path)), np.eye(4)
    image = nib.nifti1.load(path)
    return np.asanyarray(image.dataobj), np.asarray(image.affine)


def compare_commits(doors: Sequence[Door], output: Path) -> tuple[list[dict[str, object]], list[str]]:
    """Return the rows of the table, and a line for each difference."""
    rows: list[dict[str, object]] = []
    differences: list[str] = []

    def add(name: str, cases: int, masks: dict[str, Comparison], maps: dict[str, Comparison]) -> None:
        comparisons = {**masks, **maps}
        rows.append(
            {
                "door": name,
                "cases": cases,
                "equal masks": count_equal(masks),
                "equal maps": count_equal(maps),
                "largest difference": max(comparison.largest for comparison in comparisons.values()),
            }
        )
        differences.extend(f"{name}: {file}: {c.reason}" for file, c in comparisons.items() if c.reason)

    for door in doors:
        before, after = output / "before" / door.name, output / "after" / door.name
        masks = {case: compare_files(find_mask(before, case), find_mask(after, case)) for case in door.cases}
        files = map_files(before, door.cases) | map_files(after, door.cases)
        maps = {str(file): compare_files(before / file, after / file) for file in sorted(files)}
        add(door.name, len(door.cases), masks, maps)
    for name in ("before", "after"):
        add(f"{name}: doors among themselves", len(doors[0].cases), compare_doors(doors, output / name), {})
    return rows, differences


def count_equal(comparisons: dict[str, Comparison]) -> str:
    """Return how many of the files are equal, for the table."""
    num_equal = sum(not comparison.reason for comparison in comparisons.values())
    return f"{num_equal} of {len(comparisons)}" if comparisons else "-"


def compare_doors(doors: Sequence[Door], output: Path) -> dict[str, Comparison]:
    """Compare the masks of one commit from each door with those from the first door."""
    first_door, *other_doors = doors
    return {
        f"{case} by {door.name}": compare_classes(
            find_mask(output / first_door.name, case), find_mask(output / door.name, case)
        )
        for door in other_doors
        for case in door.cases
    }


def compare_classes(expected: Path | None, mask: Path | None) -> Comparison:
    """Compare the classes of two masks, which may be files of different kinds."""
    if expected is None or mask is None:
        return Comparison("missing", np.inf)
    expected_classes, classes = read_classes(expected), read_classes(mask)
    if expected_classes.shape != classes.shape:
        return Comparison(f"{list(expected_classes.shape)} and {list(classes.shape)}", np.inf)
    if np.array_equal(expected_classes, classes):
        return Comparison()
    return Comparison("voxels differ", float(np.abs(expected_classes - classes).max()))


def read_classes(path: Path) -> np.ndarray:
    """Return the classes of a mask, int64; those of a picture as a volume of one slice."""
    array = read_array(path)[0].astype(np.int64)
    return array[..., np.newaxis] // WHITE if path.suffix == ".png" else array


def find_mask(folder: Path, case: str) -> Path | None:
    """Return the mask of a ``group/case``; None unless there is exactly one."""
    files = [folder / f"{case}{suffix}" for suffix in ARRAY_SUFFIXES if (folder / f"{case}{suffix}").is_file()]
    return files[0] if len(files) == 1 else None


def map_files(folder: Path, cases: Sequence[str]) -> set[Path]:
    """Return the files of all arrays in ``folder`` except the masks, relative to it."""
    arrays = {file for file in folder.rglob("*") if file.name.endswith(ARRAY_SUFFIXES)}
    return {file.relative_to(folder) for file in arrays - {find_mask(folder, case) for case in cases}}


def write_figures(
    path: Path, before: Commit, after: Commit, rows: list[dict[str, object]], differences: list[str], seconds: int
) -> None:
    """Write the results as JSON."""
    figures = {
        "before": before.revision,
        "after": after.revision,
        "rows": rows,
        "differences": differences,
        "seconds": seconds,
    }
    path.write_text(json.dumps(figures, indent=1) + "\n")


@contextmanager
def timed(work: str) -> Iterator[None]:
    """Say how long ``work`` took."""
    start = time.monotonic()
    yield
    say(f"{work}: {time.monotonic() - start:.0f} s")


def say(*lines: str) -> None:
    """Write lines to stdout at once."""
    for line in lines:
        sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
