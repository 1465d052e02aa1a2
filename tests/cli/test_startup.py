"""Help, ``info`` and typing errors are answered before large libraries are imported."""

import json
import shutil
import zipfile

import pytest

from sdseg_monai.bundle import bundles_dir
from sdseg_monai.cli import COMMANDS
from tests.makers.processes import run_process

LARGE = {
    "PIL",
    "SimpleITK",
    "diffusers",
    "ignite",
    "monai",
    "monailabel",
    "nibabel",
    "numpy",
    "pydicom",
    "scipy",
    "torch",
}
PROGRAM = """
import json, sys
from sdseg_monai.cli import main
try:
    code = main(sys.argv[1:])
except SystemExit as ending:
    code = ending.code
sys.stdout.flush()
print("\\n" + json.dumps([code, sorted({name.split(".")[0] for name in sys.modules})]))
"""


@pytest.fixture
def folder(tmp_path):
    """Files that a command may be asked for: what is in the volumes and weights does not matter."""
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.nii.gz").touch()
    (tmp_path / "weights.pt").touch()
    with zipfile.ZipFile(tmp_path / "bundle.zip", "w") as archive:
        for name in ("inference", "metadata"):
            archive.write(bundles_dir() / "sdseg" / "configs" / f"{name}.json", f"mine/configs/{name}.json")
    return tmp_path


def run(folder, *arguments):
    """Return the exit code, the packages that were imported, stdout and stderr of the command."""
    process = run_process("python", "-c", PROGRAM, *arguments, cwd=folder)
    *lines, last = process.stdout.splitlines()
    code, packages = json.loads(last)
    return code, set(packages), "\n".join(lines), process.stderr


@pytest.mark.parametrize(
    "arguments", [("--help",), ("--version",), *((command, "--help") for command in COMMANDS)], ids=" ".join
)
def test_help_imports_nothing_large(arguments, folder):
    code, packages, out, err = run(folder, *arguments)
    assert (code, err) == (0, "") and "sdseg" in out
    assert packages & LARGE == set()


def test_info_imports_nothing_large(folder):
    code, packages, out, _ = run(folder, "info")
    assert code == 0 and packages & LARGE == set()
    assert json.loads(out)["hippocampus_sdseg"]["weights"]["sha256"], "of the file, not of a network"
    code, packages, out, _ = run(folder, "info", "bundle.zip")
    assert code == 0 and packages & LARGE == set()
    assert json.loads(out)["bundle.zip"]["labels"] == {"abdominal organs": 1}


MASKS = "images/a.nii.gz -o m.nii.gz"
MISTAKES = [
    ("segment missing.nii.gz -o m.nii.gz", "missing.nii.gz: no such file or folder"),
    (f"segment {MASKS} --bundle nosuch", "no bundle of that name"),
    (f"segment {MASKS} --bundle images", "no configs/inference.json"),
    (f"segment {MASKS} --bundle weights.pt", "no bundle of that name"),
    (f"segment {MASKS} --overlay nosuch.json", "nosuch.json: no such file"),
    (f"segment {MASKS} --weights nosuch.pt", "nosuch.pt: no such file"),
    (f"segment {MASKS} --nosuch", "unrecognized arguments: --nosuch"),
    (f"segment {MASKS} --seed x", "expected a whole number"),
    ("evaluate --predictions nosuch --labels labels -o m.csv", "no folder at"),
    ("evaluate --predictions images --labels nosuch -o m.csv", "no folder at"),
    ("evaluate --predictions images --labels labels -o m.csv --images labels", "--images are for --report"),
    ("audit --labels nosuch", "no folder at"),
    ("audit --labels labels --bundle nosuch", "no bundle of that name"),
    ("convert nosuch.ckpt -o m.pt --from official --to bundle", "nosuch.ckpt: no such file"),
    ("convert weights.pt -o m.pt --from official --to bundle --mask-decoder nosuch.pt", "nosuch.pt: no such file"),
    ("init-bundle --images nosuch --labels labels -o new", "no folder at"),
    ("init-bundle --images images --labels labels -o labels", "labels: exists"),
    ("init-bundle --images images --labels labels -o new --name one", "expected VALUE=NAME"),
    ("demo --data nosuch", "nosuch: no such file or folder"),
    ("info nosuch", "no bundle of that name"),
    ("nosuch", "invalid choice: 'nosuch'"),
]


@pytest.mark.parametrize(("command", "message"), MISTAKES)
def test_mistakes_are_told_before_anything_large_is_imported(command, message, folder):
    before = sorted(folder.rglob("*"))
    code, packages, out, err = run(folder, *command.split())
    assert code == 2 and out.strip() == "" and message in err and err.count("\n") == 1
    assert packages & LARGE == set()
    assert sorted(folder.rglob("*")) == before


@pytest.mark.slow
def test_what_is_not_a_mistake_in_typing_does_import_it(folder):
    shutil.rmtree(folder / "labels")
    (folder / "labels").mkdir()
    arguments = ["--predictions", "images", "--labels", "labels", "-o", "m.csv"]
    code, packages, _, err = run(folder, "evaluate", *arguments)
    assert code == 2 and "no volumes or pictures" in err and {"numpy", "nibabel"} <= packages
