"""Files that are made to harm: they name other files, run code, leave their folder or grow without end."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import pickle
import stat
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from PIL import Image

from sdseg_monai.bundle import Bundle, bundles_dir
from sdseg_monai.cli import main
from sdseg_monai.data import read_datalist
from sdseg_monai.inference.manifest import Manifest
from sdseg_monai.io.pictures import read_picture
from sdseg_monai.io.sources import list_sources
from sdseg_monai.io.volumes import read_volume
from sdseg_monai.weights import load_official, load_weights, read_checkpoint, read_tensors
from torment.children import call_in_child
from torment.examples import AFFINE, BUNDLE, make_network, voxels, write_bundle, write_picture, write_volume
from torment.mutants import REFUSED, read_or_refuse
from torment.readers import WrongResult, describe_bundle_file
from torment.tries import Group, Setting, Try

SECONDS, MEGABYTES = 30, 1024  # each
CANARY = 77  # every byte of the files that must not be read
SIZE = (4, 4, 4)
OWN_VOXELS = bytes(range(64))  # of the headers' own files
CODE = "__import__('pathlib').Path('executed').touch()"  # leaves a file where it runs
MUST_REFUSE, MAY_READ = "must be refused", "may be read as what it is"


@dataclass(frozen=True)
class Case:
    """A hostile file.

    Attributes:
        kind: of the danger.
        what: is tried.
        act: writes the file into the folder, which is also the current one, and reads it.
        rule: :data:`MUST_REFUSE` or :data:`MAY_READ`; in no case is another file read or any code run.
    """

    kind: str
    what: str
    act: Callable[[Path], object]
    rule: str = MUST_REFUSE


# headers that name another file


def _write_canaries(folder: Path) -> None:
    """Write files that a header may name: raw voxels, also as slices of one file each."""
    for name in ("canary.raw", "canary.img", "slice001.raw", "slice002.raw", "slice003.raw", "slice004.raw"):
        (folder / name).write_bytes(bytes([CANARY]) * 4096)


def _read_own_voxels(path: Path) -> str:
    _write_canaries(path.parent)
    array = read_volume(path).array
    if array.T.tobytes() != np.frombuffer(OWN_VOXELS, np.uint8).astype(np.float32).tobytes():
        raise WrongResult(f"voxels {array.T.ravel()[:8]}, which are not the file's own")
    return "its own voxels"


def _read_mha(header: str, folder: Path) -> str:
    path = folder / "hostile.mha"
    path.write_bytes(header.replace("FOLDER", str(folder)).encode("latin-1") + OWN_VOXELS)
    return _read_own_voxels(path)


MHA = "ObjectType = Image\nNDims = 3\nDimSize = 4 4 4\nElementSpacing = 1 1 1\nElementType = MET_UCHAR\n"
MHA_TAILS = (  # after the header above
    "ElementDataFile = canary.raw\n",
    "ElementDataFile = FOLDER/canary.raw\n",
    "ElementDataFile = ../other/canary.raw\n",
    "ElementDataFile : canary.raw\nElementDataFile = LOCAL\n",
    "ElementDataFile:canary.raw\nElementDataFile = LOCAL\n",
    "elementdatafile = canary.raw\nElementDataFile = LOCAL\n",
    "elementDataFile=canary.raw\nElementDataFile = LOCAL\n",
    "ELEMENTDATAFILE = canary.raw\nElementDataFile = LOCAL\n",
    "Comment = x\rElementDataFile = canary.raw\nElementDataFile = LOCAL\n",
    "Comment = x\r\rElementDataFile = canary.raw\r\nElementDataFile = LOCAL\n",
    "Comment = x\x0bElementDataFile = canary.raw\nElementDataFile = LOCAL\n",
    "Comment = x\x0cElementDataFile = canary.raw\nElementDataFile = LOCAL\n",
    "Comment = x\x85ElementDataFile = canary.raw\nElementDataFile = LOCAL\n",
    "Comment = x\0\nElementDataFile = canary.raw\nElementDataFile = LOCAL\n",
    "ElementDataFile\t=\tcanary.raw\nElementDataFile = LOCAL\n",
    " ElementDataFile = canary.raw\nElementDataFile = LOCAL\n",
    "ElementDataFile = canary.raw \nElementDataFile = LOCAL\n",
    "ElementDataFile = LOCAL canary.raw\n",
    "ElementDataFile = local\n",
    "ElementDataFile = LOCAL\0canary.raw\n",
    "ElementDataFile = LIST\ncanary.raw\n",
    "ElementDataFile = LIST 2\nslice001.raw\nslice002.raw\nslice003.raw\nslice004.raw\n",
    "ElementDataFile = slice%03d.raw 1 4 1\n",
    "ElementDataFile =\ncanary.raw\n",
    "ElementDataFile = /dev/zero\n",
    "ElementDataFile = /etc/passwd\n",
    "HeaderSize = -1\nElementDataFile = canary.raw\n",
    "HeaderSize = 1\nElementDataFile = LOCAL\n",
    "CompressedData = True\nCompressedDataSize = 64\nElementDataFile = canary.raw\n",
    "CompressedData = T\nElementDataFile = LOCAL\n",
    "CompressedData = True\nElementDataFile = LOCAL\n",
    "BinaryData = False\nElementDataFile = canary.raw\n",
    "ElementToIntensityFunctionSlope = 1000\nElementDataFile = canary.raw\n",
)
# what ITK would take for another file's name may also be read as a comment, and the file's own voxels may be found
MAYBE_MHA = ("Comment", "ElementDataFile = local", "HeaderSize = 1")
MHA_FIRST = "ElementDataFile = canary.raw\nObjectType = Image\n"  # before the other fields


def _read_nrrd(lines: str, folder: Path) -> str:
    path = folder / "hostile.nrrd"
    header = f"NRRD0005\n{lines}".replace("FOLDER", str(folder))
    path.write_bytes(header.encode("latin-1") + b"\n" + OWN_VOXELS)
    return _read_own_voxels(path)


NRRD = (
    "type: uint8\ndimension: 3\nsizes: 4 4 4\nspace: left-posterior-superior\n"
    "space directions: (1,0,0) (0,1,0) (0,0,1)\nspace origin: (0,0,0)\nencoding: raw\n"
)
NRRD_LINES = (
    "data file: canary.raw\n",
    "datafile: canary.raw\n",
    "DATA FILE: canary.raw\n",
    "Data File: canary.raw\n",
    "data file : canary.raw\n",
    " data file: canary.raw\n",
    "data file:canary.raw\n",
    "data  file: canary.raw\n",
    "data\tfile: canary.raw\n",
    "data file: FOLDER/canary.raw\n",
    "data file: /etc/passwd\n",
    "data file: /dev/zero\n",
    "data file: slice%03d.raw 1 4 1\n",
    "data file: LIST\nslice001.raw\nslice002.raw\nslice003.raw\nslice004.raw\n",
    "# a comment\rdata file: canary.raw\n",
    "key:=value\rdata file: canary.raw\n",
    "content: x\x0bdata file: canary.raw\n",
    "content: x\x85data file: canary.raw\n",
    "content: x\0\ndata file: canary.raw\n",
    "byte skip: -1\ndata file: canary.raw\n",
    "byte skip: -1\n",
    "line skip: 1000000\n",
    "byte skip: 99999999999\n",
)
MAYBE_NRRD = ("#", "key", "content", "byte skip: -1\n")  # -1: the voxels are at the end of the file


def _read_pair(magic: bytes, folder: Path) -> str:
    """Read a NIfTI header whose voxels would be in the ``.img`` beside it."""
    path = folder / "canary.nii"
    content = bytearray(nib.Nifti1Image(np.zeros(SIZE, np.uint8), AFFINE).to_bytes())
    content[344:348] = magic
    path.write_bytes(content[:352])
    return _read_own_voxels(path)


def _read_offset(offset: float, folder: Path) -> str:
    path = folder / "hostile.nii"
    content = bytearray(nib.Nifti1Image(np.zeros(SIZE, np.uint8), AFFINE).to_bytes())
    struct.pack_into("<f", content, 108, offset)
    path.write_bytes(content)
    return _read_own_voxels(path)


def _headers() -> Iterator[Case]:
    kind = "header that names another file"
    for tail in MHA_TAILS:
        rule = MAY_READ if tail.startswith(MAYBE_MHA) else MUST_REFUSE
        yield Case(kind, f"MHA {tail!r}", partial(_read_mha, MHA + tail), rule)
    yield Case(kind, f"MHA {MHA_FIRST!r}", partial(_read_mha, MHA_FIRST + MHA + "ElementDataFile = LOCAL\n"))
    for line in NRRD_LINES:
        rule = MAY_READ if line.startswith(MAYBE_NRRD) else MUST_REFUSE
        yield Case(kind, f"NRRD {line!r}", partial(_read_nrrd, NRRD + line), rule)
    for magic in (b"ni1\0", b"ni2\0", b"\0\0\0\0"):
        yield Case(kind, f"NIfTI with magic {magic!r}", partial(_read_pair, magic))
    for offset in (0.0, -1000.0, 1e9, float("nan"), float("inf")):
        yield Case(kind, f"NIfTI with voxels from byte {offset}", partial(_read_offset, offset))


# data that would run code


class Runs:
    """Its pickle runs :data:`CODE` where it is loaded."""

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return eval, (CODE,)


def _save_torch(folder: Path, content: object, is_new: bool) -> Path:
    path = folder / "hostile.pt"
    torch.save(content, path, _use_new_zipfile_serialization=is_new)
    return path


def _save_pickle(folder: Path, content: object, is_new: bool) -> Path:
    path = folder / "hostile.ckpt"
    path.write_bytes(pickle.dumps(content, protocol=4 if is_new else 0))
    return path


def _pickle_contents() -> dict[str, Callable[[], object]]:
    return {
        "instead of a state dict": Runs,
        "among the weights": lambda: {**make_network().state_dict(), "unet.conv_out.bias": Runs()},
        "under state_dict": lambda: {"state_dict": make_network().state_dict(), "callbacks": {"a": Runs()}},
        "as a key": lambda: {Runs(): torch.zeros(1)},
    }


def _load_into_network(path: Path) -> None:
    load_weights(make_network(), path)


def _load_pickle(
    save: Callable[..., Path], read: Callable[[Path], object], make: Callable[[], object], is_new: bool, folder: Path
) -> object:
    return read(save(folder, make(), is_new))


def _pickles() -> Iterator[Case]:
    readers: dict[str, Callable[[Path], object]] = {
        "weights": _load_into_network,
        "a training's checkpoint": read_tensors,
        "a checkpoint to convert": read_checkpoint,
        "official weights": load_official,
    }
    for reader, read in readers.items():
        for place, make in _pickle_contents().items():
            for save, form in ((_save_torch, "torch"), (_save_pickle, "pickle")):
                for is_new in (True, False):
                    what = f"{reader}: an object that runs code {place}, {form}, {'new' if is_new else 'old'} form"
                    yield Case("data that would run code", what, partial(_load_pickle, save, read, make, is_new))


def _edit_json(path: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def _hostile_bundle(folder: Path, config: str, edit: Callable[[dict[str, Any]], object]) -> Path:
    root = write_bundle(folder / "bundle")
    (root / "models" / "model.pt").write_bytes((bundles_dir() / BUNDLE / "models" / "model.pt").read_bytes())
    _edit_json(root / "configs" / f"{config}.json", edit)
    return root


def _set(key: str, value: object) -> Callable[[dict[str, Any]], object]:
    return lambda content: content.update({key: value})


def _name_class(content: dict[str, Any]) -> None:
    masks = next(iter(content["network_data_format"]["post_processed_outputs"].values()))
    masks["channel_def"]["1"] = f"${CODE}"


PROGRAM = {"_target_": "os.system", "command": "touch executed"}
EDITS: dict[str, tuple[str, Callable[[dict[str, Any]], object]]] = {
    "version in the metadata": ("metadata", _set("version", f"${CODE}")),
    "class names in the metadata": ("metadata", _name_class),
    "imports of inference.json": ("inference", lambda content: content["imports"].append(f"${CODE}")),
    "checkpoint of inference.json": ("inference", _set("checkpoint", f"${CODE} or 'x'")),
    "bundle_root of inference.json": ("inference", _set("bundle_root", f"${CODE} or '.'")),
    "device of inference.json": ("inference", _set("device", f"${CODE} or 'cpu'")),
    "size of inference.json": ("inference", _set("size", f"${CODE} or [64, 64]")),
    "number of classes of inference.json": ("inference", _set("num_classes", f"${CODE} or 3")),
    "network of inference.json": ("inference", _set("network_def", PROGRAM)),
    "inferer of inference.json": ("inference", _set("inferer", PROGRAM)),
    "mask's steps of inference.json": ("inference", _set("mask_from_score", PROGRAM)),
    "a transform of inference.json": (
        "inference",
        lambda content: content["preprocessing"]["transforms"].insert(0, PROGRAM),
    ),
    "a component of inference.json that is left out": (
        "inference",
        lambda content: content["inferer"].update(_disabled_=f"${CODE}"),
    ),
    "size of train.json": ("train", _set("size", f"${CODE} or [64, 64]")),
    "autoencoder's weights of train.json": ("train", _set("autoencoder_weights", f"${CODE} or 'x'")),
    "network of train.json": ("train", lambda content: content["network_def"].update(autoencoder=PROGRAM)),
    "preprocessing of train.json": ("train", lambda content: content["train"].update(preprocessing=PROGRAM)),
}


def _commands(root: Path) -> dict[str, list[object]]:
    folder = root.parent
    image, labels = folder / "image.nii.gz", folder / "labels"
    return {
        "info": ["info", root],
        "audit": ["audit", "--labels", labels, "--bundle", root],
        "convert": ["convert", root, "-o", folder / "converted.pt", "--from", "bundle", "--to", "inference"],
        "segment": ["segment", image, "-o", folder / "mask.nii.gz", "--bundle", root],
    }


def _run_command(name: str, config: str, edit: Callable[[dict[str, Any]], object], folder: Path) -> str:
    root = _hostile_bundle(folder, config, edit)
    nib.save(nib.Nifti1Image(voxels(), AFFINE), folder / "image.nii.gz")
    (folder / "labels").mkdir()
    nib.save(nib.Nifti1Image((voxels() > 0).astype(np.uint8), AFFINE), folder / "labels" / "image.nii.gz")
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        code = main([str(word) for word in _commands(root)[name]])
    if code not in (0, 2) or "Traceback" in output.getvalue():
        raise WrongResult(f"exit code {code}: {output.getvalue()[-1000:]}")
    return f"exit code {code}"


def _chain(name: str, text: str, folder: Path) -> object:
    overlay = folder / name
    overlay.write_text(text)
    return Bundle(bundles_dir() / BUNDLE).config("inference", [overlay])["size"]


def _programs() -> Iterator[Case]:
    kind = "bundle that would run code"
    for place, (config, edit) in EDITS.items():
        for command in ("info", "audit", "convert", "segment"):
            yield Case(kind, f"sdseg {command}: {place}", partial(_run_command, command, config, edit), MAY_READ)
    yaml = f'size: !!python/object/apply:eval ["{CODE}"]\n'
    yield Case(kind, "overlay of YAML with an object of Python", partial(_chain, "overlay.yaml", yaml))
    yield Case(
        kind, "overlay with an expression", partial(_chain, "o.json", json.dumps({"size": f"${CODE}"})), MAY_READ
    )


# archives that leave their folder, and data that grow without end


def _open_zip(names: dict[str, bytes], is_link: bool, folder: Path) -> str:
    root = write_bundle(folder / "made" / "bundle")
    path = folder / "hostile.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(root.rglob("*.*")):
            archive.write(file, file.relative_to(root.parent))
        for name, content in names.items():
            info = zipfile.ZipInfo(name.replace("FOLDER", str(folder)))
            if is_link:
                info.external_attr = (stat.S_IFLNK | 0o777) << 16
            archive.writestr(info, content)
    return json.dumps(Bundle.open(path).describe())


ESCAPES = {
    "a path upwards": "../executed",
    "a long path upwards": "bundle/../../../executed",
    "an absolute path": "FOLDER/executed",
    "a Windows path": "..\\..\\executed",
    "a drive": "C:\\executed",
    "a network path": "//server/executed",
    "a path of dots": "bundle/configs/../../../executed",
}
BOMB = 1 << 28  # bytes, 256 MiB


def _zeros_gzip(size: int) -> bytes:
    """Return a gzip stream of ``size`` zeros, as many members of 16 MiB each."""
    member = gzip.compress(bytes(1 << 24), 9, mtime=0)
    return member * (size >> 24)


def _zeros_zlib(size: int) -> bytes:
    compressor = zlib.compressobj(9)
    return b"".join(compressor.compress(bytes(1 << 24)) for _ in range(size >> 24)) + compressor.flush()


def _read_gzip_bomb(folder: Path) -> np.ndarray:
    content = nib.Nifti1Image(np.zeros(SIZE, np.uint8), AFFINE).to_bytes()
    path = folder / "bomb.nii.gz"
    path.write_bytes(gzip.compress(content) + _zeros_gzip(16 * BOMB))
    return read_volume(path).array


def _read_nrrd_bomb(folder: Path) -> np.ndarray:
    path = folder / "bomb.nrrd"
    path.write_bytes(f"NRRD0005\n{NRRD.replace('raw', 'gzip')}\n".encode() + _zeros_gzip(16 * BOMB))
    return read_volume(path).array


def _read_mha_bomb(folder: Path) -> np.ndarray:
    voxels_ = _zeros_zlib(BOMB)
    path = folder / "bomb.mha"
    header = f"{MHA}CompressedData = True\nCompressedDataSize = {len(voxels_)}\nElementDataFile = LOCAL\n"
    path.write_bytes(header.encode() + voxels_)
    return read_volume(path).array


def _open_zip_bomb(folder: Path) -> str:
    return _open_zip({"bundle/models/model.pt": bytes(BOMB)}, False, folder)


def _open_full_zip(folder: Path) -> str:
    return _open_zip({f"bundle/docs/{number}": b"" for number in range(70_000)}, False, folder)


def _read_picture_bomb(folder: Path) -> np.ndarray:
    path = folder / "bomb.png"
    content = bytearray(write_picture(path).read_bytes())
    content[16:24] = struct.pack(">II", 60_000, 60_000)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    path.write_bytes(content)
    return read_picture(path)


def _read_eps(folder: Path) -> np.ndarray:
    path = folder / "program.png"
    path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(executed) (w) file closefile\nshowpage\n")
    return read_picture(path)


def _read_many_pages(folder: Path) -> np.ndarray:
    path = folder / "pages.tif"
    page = Image.fromarray(np.zeros((8, 8), np.uint8))
    page.save(path, save_all=True, append_images=[page] * 200)
    return read_picture(path)


def _list(name: str, text: str, folder: Path) -> object:
    write_volume(folder / "a.nii.gz")
    path = folder / name
    path.write_text(text.replace("FOLDER", str(folder)))
    if "pipe" in text:
        os.mkfifo(folder / "pipe.nii.gz")
    return list_sources(path)


LISTS = {
    "nested without end": ("list.json", "[" * 100_000),
    "numbers without end": ("list.json", '{"test": [' + "9" * 100_000 + "]}"),
    "a device": ("list.csv", "image\n/dev/zero\n"),
    "a device called as a volume": ("list.json", '{"test": [{"image": "/dev/stdin"}]}'),
    "a pipe": ("list.csv", "image\npipe.nii.gz\n"),
    "a folder without DICOM": ("list.csv", "image\nFOLDER\n"),
    "an address": ("list.csv", "image\nhttp://127.0.0.1/a.nii.gz\n"),
    "a NUL": ("list.json", '{"test": [{"image": "a\\u0000.nii.gz"}]}'),
    "half a surrogate": ("list.json", '{"test": [{"image": "\\ud800.nii.gz"}]}'),
    "a name without end": ("list.csv", f"image\n{'x' * 100_000}.nii.gz\n"),
    "a number for a name": ("list.json", '{"test": [{"image": 5}]}'),
    "a password file": ("list.csv", "image\n/etc/passwd\n"),
    "the same image twice": ("list.csv", "image\na.nii.gz\n./a.nii.gz\n"),
}


def _split(text: str, folder: Path) -> object:
    (folder / "datalist.json").write_text(text)
    return read_datalist(folder / "datalist.json", "training", folder, "")


def _resume(text: str, folder: Path) -> object:
    (folder / "sdseg_manifest.json").write_text(text)
    return Manifest.resume(folder / "sdseg_manifest.json", {}, {})


def _metadata(text: str, folder: Path) -> str:
    path = write_bundle(folder / "bundle") / "configs" / "metadata.json"
    path.write_text(text)
    return describe_bundle_file(path)


def _archives() -> Iterator[Case]:
    kind = "zip that leaves its folder"
    for what, name in ESCAPES.items():
        yield Case(kind, what, partial(_open_zip, {name: b"x"}, False), MAY_READ)
    for target in ("FOLDER", "/", ".."):
        names = {"bundle/link": target.encode(), "bundle/link/executed": b"x"}
        yield Case(kind, f"a link to {target}", partial(_open_zip, names, True), MAY_READ)


def _bombs() -> Iterator[Case]:
    kind = "data that grow without end"
    bombs = {
        "4 GiB of zeros after the voxels of a NIfTI": _read_gzip_bomb,
        "4 GiB of zeros as 64 voxels of a NRRD": _read_nrrd_bomb,
        "256 MiB of zeros as 64 voxels of an MHA": _read_mha_bomb,
        "256 MiB of zeros as weights in a zip": _open_zip_bomb,
        "a PNG that claims 60,000 x 60,000 pixels": _read_picture_bomb,
        "a TIFF of 201 pages": _read_many_pages,
        "a program of PostScript called .png": _read_eps,
    }
    for what, act in bombs.items():
        yield Case(kind, what, act)
    yield Case(kind, "70,000 empty files in a zip", _open_full_zip, MAY_READ)
    for what, (name, text) in LISTS.items():
        yield Case("list that names what is no image", what, partial(_list, name, text))
    for text in ("[" * 100_000, '{"training": [{"image": "/dev/zero", "label": "/dev/zero"}]}', '{"training": 5}'):
        yield Case("list that names what is no image", f"of a training: {text[:40]}", partial(_split, text))
    for text in ("[" * 100_000, "{}", '{"settings": {}, "cases": {"a": 5}}', "\0"):
        yield Case("JSON that is none of ours", f"manifest {text[:40]!r}", partial(_resume, text))
        yield Case("JSON that is none of ours", f"metadata {text[:40]!r}", partial(_metadata, text))


CASES = (*_headers(), *_pickles(), *_programs(), *_archives(), *_bombs())


def attempt(setting: Setting, index: int) -> Try:
    """Write a hostile file and read it in a child process, with the try's folder as the current one."""
    case = CASES[index]
    place = setting.place(index)
    (place / "files").mkdir()
    verdict = call_in_child(partial(_act, case, place), SECONDS, MEGABYTES)
    outcome, text = verdict.value if isinstance(verdict.value, list) else ("", "")
    failure = verdict.failure
    if (place / "files" / "executed").exists() or (place / "executed").exists():
        failure = f"code was run, or a file written outside its folder; {failure or outcome}: {text}"
    elif not failure and case.rule == MUST_REFUSE and outcome != REFUSED:
        failure = f"read ({text}), and not refused"
    return Try(index, case.kind, case.what, outcome, failure)


def _act(case: Case, place: Path) -> tuple[str, str]:
    folder = place / "files"
    os.chdir(folder)
    tempfile.tempdir = str(place / "temporary")  # for bundles that are unpacked
    (place / "temporary").mkdir()
    outcome, text = read_or_refuse(lambda path: str(case.act(path)), folder)
    return outcome, text[:300]


GROUP = Group(
    name="hostile",
    title="Hostile files",
    about="Files that are made to harm: headers of NIfTI, NRRD and MHA that name another file for the voxels (by "
    "tricks with upper case, colons and line ends that one reader takes for a field and another does not); "
    "weights, checkpoints and bundles with code in them; zip files with paths and links that lead out of "
    "their folder; a few megabytes that unpack to gigabytes; lists that name devices and pipes. Right is that"
    " no other file's content is read as voxels, that no code runs, that nothing is written elsewhere, and "
    f"that each try ends within {SECONDS} seconds and {MEGABYTES} MiB, with one line where the file is "
    "refused.",
    number=len(CASES),
    quick=40,
    attempt=attempt,
)
