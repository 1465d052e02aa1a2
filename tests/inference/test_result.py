"""The result for programs: a nibabel image, volumes by name, warnings and a short text; progress of a segmentation."""

import inspect

import nibabel as nib
import numpy as np
import pytest

import sdseg_monai
from sdseg_monai import Pipeline, segment
from sdseg_monai.errors import ArgumentError, Cancelled, InputError
from sdseg_monai.inference.options import NAMES
from sdseg_monai.io.formats.nifti_labels import read_label_names
from tests.makers.volumes import OBLIQUE, load_nifti


def test_the_nibabel_image_is_the_file_that_save_writes(volume, result, tmp_path):
    image = result.to_nifti()
    nib.save(image, tmp_path / "by_nibabel.nii.gz")
    result.save(tmp_path / "mask.nii.gz")
    by_nibabel, saved = (load_nifti(tmp_path / name) for name in ("by_nibabel.nii.gz", "mask.nii.gz"))
    assert by_nibabel.header.binaryblock == saved.header.binaryblock and image.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(np.asarray(by_nibabel.dataobj), np.asarray(saved.dataobj))
    assert read_label_names(tmp_path / "by_nibabel.nii.gz") == result.names
    codes = ("qform_code", "sform_code")
    assert [image.header[code] for code in codes] == [load_nifti(volume).header[code] for code in codes]


def test_the_nibabel_image_of_an_array_lies_on_its_affine(volume):
    image = segment((np.asarray(load_nifti(volume).dataobj), OBLIQUE), device="cpu").to_nifti()
    np.testing.assert_allclose(image.affine, OBLIQUE, atol=1e-5)


def test_its_text_is_short_and_says_what_matters(result):
    names = list(result.volumes)
    assert repr(result).startswith("SegmentationResult(") and all(name in repr(result) for name in names)
    assert len(repr(result)) < 200 and f"{result.volumes[names[0]]:.2f} ml" in repr(result)
    assert " x ".join(map(str, result.labels.shape)) in repr(result)


def test_a_pipeline_is_called(volume, result):
    pipeline = Pipeline(device="cpu")
    for call in (pipeline, pipeline.segment):  # 0.4.0 had the method alone
        np.testing.assert_array_equal(call(volume).labels, result.labels)


def test_progress_is_told_of_every_batch(volume, result):
    steps = []
    again = segment(volume, device="cpu", batch_size=7, progress=lambda done, total: steps.append((done, total)))
    np.testing.assert_array_equal(again.labels, result.labels)
    slices = load_nifti(volume).shape[1]  # the embedded bundle's slices are coronal
    assert steps == [(min(done, slices), slices) for done in range(7, slices + 7, 7)]


@pytest.mark.parametrize("uncertainty", [None, "flips"])
def test_progress_may_cancel(volume, uncertainty):
    pipeline, steps = Pipeline(device="cpu", uncertainty=uncertainty), []

    def cancel(done, total):
        steps.append(done)
        return len(steps) < 2

    with pytest.raises(Cancelled, match=r"cancelled after 16 of \d+ slices"):
        pipeline(volume, progress=cancel)
    assert len(steps) == 2, "no batch was computed after it"
    assert pipeline(volume).labels.any(), "the model can be used on"


def test_an_unknown_option_is_named():
    with pytest.raises(TypeError, match="unknown option 'batchsize', expected one of device, seed"):
        Pipeline(batchsize=3)


def test_every_option_is_checked_where_it_is_given_and_documented():
    """Pipeline, segment and the command have one list of options; none is repeated in a signature."""
    for call in (Pipeline.__init__, sdseg_monai.segment):
        assert not set(inspect.signature(call).parameters) & set(NAMES)
    with pytest.raises(ArgumentError, match="seed=-1"):
        Pipeline(device="cpu").configure(seed=-1)


@pytest.mark.parametrize(
    "call",
    [
        lambda result: segment("a\0.nii.gz", device="cpu"),
        lambda result: segment("folder\0", device="cpu"),
        lambda result: Pipeline("bundle\0", device="cpu"),
        lambda result: Pipeline(device="cpu", weights="w\0.pt"),
        lambda result: Pipeline(device="cpu", overlays=["o\0.json"]),
        lambda result: result.save("m\0.nii.gz"),
    ],
)
def test_a_nul_character_in_a_path_is_one_line(result, call):
    with pytest.raises(InputError) as caught:
        call(result)
    assert "\n" not in str(caught.value)
