"""The memory that a large volume takes does not grow with its depth."""

import gzip
import json
import subprocess
import sys

import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom.uid import generate_uid

from tests.makers.bundles import write_sdseg
from tests.makers.dicom import write_mr_series
from tests.makers.volumes import load_nifti

EDGE = 512
GIB = 1 << 30
LIMIT = {2: 1.5 * GIB, 14: 2 * GIB}  # above the loaded model, by the number of classes
PROGRAM = """
import json, resource, sys
from pathlib import Path
import psutil
from sdseg_monai.inference.batch import job_of_file, segment_one
from sdseg_monai.inference.pipeline import Pipeline
from sdseg_monai.io.sources import open_source
bundle, image, mask = map(Path, sys.argv[1:])
pipeline = Pipeline(bundle, device="cpu", trust=True, force=True)
loaded = psutil.Process().memory_info().rss
segment_one(pipeline, job_of_file(open_source(image), mask, []))
print(json.dumps([loaded, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024]))
"""


def planes(depth):
    """Yield the planes of a volume, [X, Y], int16."""
    plane = np.add.outer(np.arange(EDGE), np.arange(EDGE)).astype(np.int16)
    for index in range(depth):
        yield plane + np.int16(index % 50)


def write_volume(path, depth):
    header = nib.Nifti1Header()
    header.set_data_shape((EDGE, EDGE, depth))
    header.set_data_dtype(np.int16)
    header.set_sform(np.eye(4), code=1)
    header["magic"], header["vox_offset"] = b"n+1", 352
    with gzip.open(path, "wb", 1) as file:
        file.write(header.binaryblock + bytes(4))
        for plane in planes(depth):
            file.write(plane.tobytes(order="F"))


def write_series(folder, depth):
    """Write one slice of a small series again and again, with the pixels of a large one."""
    write_volume(folder / "thin.nii.gz", 1)
    template, *_ = write_mr_series(folder / "thin.nii.gz", folder / "template")
    dataset, series = pydicom.dcmread(template), folder / "series"
    series.mkdir()
    x, y, z = map(float, dataset.ImagePositionPatient)
    for index, plane in enumerate(planes(depth)):
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        dataset.InstanceNumber, dataset.ImagePositionPatient = index + 1, [x, y, z + index]
        dataset.PixelData = plane.T.astype(np.uint16).tobytes()
        dataset.save_as(series / f"{index}.dcm")
    return series


def memory(bundle, image, mask):
    """Return the bytes of the process with the model, and at its peak."""
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, bundle, image, mask], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr[-2000:]
    return json.loads(result.stdout.splitlines()[-1])


@pytest.fixture(scope="module", params=[2, 14])
def bundle(request, tmp_path_factory):
    folder = write_sdseg(tmp_path_factory.mktemp("bundle") / "tiny", "zeros", request.param)
    config = json.loads((folder / "configs" / "inference.json").read_text())
    config |= {"slice_axis": 2, "context_mm": None}
    (folder / "configs" / "inference.json").write_text(json.dumps(config))
    return folder, request.param


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["nifti", "dicom"])
def test_memory_does_not_grow_with_the_depth(bundle, kind, tmp_path):
    folder, num_classes = bundle
    peaks = {}
    for depth in (200, 2000):
        place = tmp_path / str(depth)
        place.mkdir()
        if kind == "nifti":
            image = place / "image.nii.gz"
            write_volume(image, depth)
        else:
            image = write_series(place, depth)
        loaded, peaks[depth] = memory(folder, image, place / "mask.nii.gz")
        assert peaks[depth] - loaded < LIMIT[num_classes]
        assert load_nifti(place / "mask.nii.gz").shape == (EDGE, EDGE, depth)
    assert peaks[2000] < 1.15 * peaks[200]
