"""The reports of the commands ``sdseg segment`` and ``sdseg evaluate``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from sdseg_monai.about import __version__
from sdseg_monai.evaluation import METRICS, CaseMetrics, Evaluation, has_class_means, match_images, warning_texts
from sdseg_monai.inference.batch import Job, Segmentation
from sdseg_monai.inference.manifest import case_warnings
from sdseg_monai.inference.measures import area_texts, measure_texts
from sdseg_monai.inference.pipeline import Pipeline
from sdseg_monai.inference.results import SegmentationResult
from sdseg_monai.io.dicom import DICOM_SUFFIX, Series, read_seg
from sdseg_monai.io.label_maps import check_label_map, read_mask
from sdseg_monai.io.pictures import is_picture
from sdseg_monai.io.segments import UNSURE, Segment
from sdseg_monai.io.sources import load_source
from sdseg_monai.io.volumes import Volume, read_volume
from sdseg_monai.io.voxel_order import on_same_grid
from sdseg_monai.io.warnings import ImageWarning, log_warnings
from sdseg_monai.report import Picture, ReportCase, write_report
from sdseg_monai.report.drawing import colours_of, segment_name
from sdseg_monai.transforms import LoadVolumed

FLAGS = ("failed", "warnings", "zero_dice")  # of a summary, which the page shows at the cases


def report_segmentations(
    path: Path,
    pipeline: Pipeline,
    cases: Mapping[Job, Mapping[str, Any]],
    result: SegmentationResult | None = None,
) -> None:
    """Write the report of a segmentation: the cases with viewers, failed cases and cases with warnings first.

    Args:
        path: HTML file.
        pipeline: the pipeline that made the masks.
        cases: for each job its entry in the manifest.
        result: the result, if there is one job only. If there are several, their images and masks are read again, one
            at a time.

    Raises:
        InputError: the page cannot be written.
    """
    segments = pipeline.segments
    settings = {name: value for name, value in pipeline.settings.items() if value not in (None, [])}
    write_report(
        path,
        title=f"Segmentation with {Path(str(pipeline.settings['bundle'])).name}",
        about={"versions": pipeline.about["versions"], "device": pipeline.about["device"], **settings},
        cases=[_segmented_case(job, case, result, segments) for job, case in cases.items()],
        segments=segments,
    )


def report_bundles(path: Path, segmentations: Sequence[Segmentation]) -> None:
    """Write the report of images that were segmented by several bundles, one image by each.

    Args:
        path: HTML file.
        segmentations: the images with their models and results, at least one.

    Raises:
        InputError: the page cannot be written.
    """
    cases = []
    for pipeline, job, result in segmentations:
        case = _segmented_case(job, {"status": "done", **result.manifest["case"]}, result, pipeline.segments)
        cases.append(replace(case, name=str(pipeline.settings["bundle"]), segments=pipeline.segments))
    about = segmentations[0].pipeline.about
    write_report(
        path,
        title="Demo: an image of each bundle",
        about={"versions": about["versions"], "device": about["device"]},
        cases=cases,
        segments={},
    )


def report_evaluation(
    path: Path,
    evaluation: Evaluation,
    summary: Mapping[str, Any],
    names: Mapping[int, str],
    predictions: Path,
    labels: Path,
    images: Path | None,
) -> None:
    """Write the report of an evaluation: means, plots, and the cases with viewers, the worst case first.

    Args:
        path: HTML file.
        evaluation: the cases, from :func:`~sdseg_monai.evaluation.evaluate_pairs`.
        summary: the dictionary from :func:`~sdseg_monai.evaluation.summarise`, with the settings of the evaluation.
        names: names of the classes, by their values; some or all may be missing.
        predictions: folder of masks.
        labels: folder of labels.
        images: folder of the predictions' images; None to show the masks without images.

    Raises:
        InputError: the page cannot be written, or a prediction has no image.
    """
    pair_images = match_images([prediction for prediction, _ in evaluation.pairs.values()], images)
    metrics = {case.case: case for case in evaluation.cases}
    has_foreground = has_class_means(evaluation.cases)
    segments = {value: Segment(names[value], colour, None) for value, colour in colours_of(list(names), {}).items()}
    report_cases = []
    for (name, (prediction, label)), image in zip(evaluation.pairs.items(), pair_images, strict=True):
        if name in evaluation.failed:
            report_cases.append(ReportCase(name, "failed", flags=[evaluation.failed[name]]))
            continue
        zero_names = [segment_name(value, segments) for value in metrics[name].zero_classes]
        report_cases.append(
            ReportCase(
                name=name,
                status="done",
                flags=[*([f"Dice 0: {', '.join(zero_names)}"] if zero_names else []), *warning_texts(metrics[name])],
                metrics=_metrics(metrics[name], has_foreground),
                load=partial(_load_pair, prediction, label, image),
            )
        )
    about = {"sdseg-monai": __version__, "predictions": str(predictions), "labels": str(labels)}
    about |= {name: summary[name] for name in ("protocol", "tolerance", "labels_without_prediction")}
    write_report(
        path,
        title=f"Evaluation of {predictions.name}",
        about=about,
        cases=report_cases,
        segments=segments,
        summary={name: value for name, value in summary.items() if name not in FLAGS},
    )


def _segmented_case(
    job: Job, case: Mapping[str, Any], result: SegmentationResult | None, segments: Mapping[int, Segment]
) -> ReportCase:
    facts: dict[str, object] = {}
    for name, size in case.get("volume_ml", {}).items():
        if isinstance(size, dict):  # the volume, and the smallest and largest of several samples
            facts[name] = f"{size['mask']:.2f} ml ({size['smallest']:.2f} to {size['largest']:.2f})"
        else:
            facts[name] = f"{size:.2f} ml"
    facts |= {**area_texts(case), **measure_texts(case)}
    facts |= {name: case[name] for name in ("disagreement", "seconds") if name in case}
    is_failed = case["status"] == "failed"
    load: Callable[[], Picture] | None = None
    if not is_failed:
        load = partial(_load_segmented, job, result, segments)
    mark = case.get("not_trusted", "")
    flags = [case["error"]] if is_failed else case_warnings(case)
    name = job.name
    if isinstance(job.source, Series) and job.source.description:
        name, facts["series"] = f"{job.source.description} ({job.source.modality})", job.name
    status = "failed" if is_failed else "done"
    return ReportCase(name=name, status=status, facts=facts, flags=flags, not_trusted=mark, load=load)


def _load_segmented(job: Job, result: SegmentationResult | None, segments: Mapping[int, Segment]) -> Picture:
    image = load_source(job.source)
    if result is not None:
        labels = result.labels
    elif job.mask.suffix.lower() == DICOM_SUFFIX and isinstance(image, Volume):
        labels = read_seg(job.mask, image, segments)
    else:
        labels = _read_mask(job.mask).array.astype(np.uint8)
    return _picture(image, {"mask": labels})


def _load_pair(prediction: Path, label: Path, image: Path | None) -> Picture:
    masks = {name: _read_mask(path) for name, path in (("prediction", prediction), ("label", label))}
    is_photograph = is_picture(label)
    if image is not None and not is_photograph:
        reference_path, reference = image, read_volume(image)
        log_warnings(image, reference.warnings)
    else:
        reference_path, reference = label, masks["label"]
    arrays = {
        name: on_same_grid(reference_path, reference, path, masks[name]).array.astype(np.uint8)
        for name, path in (("prediction", prediction), ("label", label))
    }
    if image is not None:
        return _picture(image if is_photograph else reference, arrays)
    return Picture(None, arrays, reference.affine, photograph=is_photograph)


def _read_mask(path: Path) -> Volume:
    mask = read_mask(path)
    return replace(mask, array=check_label_map(path, mask.array, largest=UNSURE))


def _picture(image: Any, masks: Mapping[str, np.ndarray]) -> Picture:
    known_warnings: list[ImageWarning] = []  # were logged when the image was read first
    volume = LoadVolumed("image")({"image": image, "warnings": known_warnings})["image"]  # [C, X, Y, Z]
    return Picture(volume.numpy(), masks, volume.affine.numpy(), photograph=len(volume) == 3)


def _metrics(case: CaseMetrics, has_foreground: bool) -> dict[str, float]:
    metrics = {name: getattr(case, name) for name in METRICS}
    if has_foreground:
        metrics |= {f"{name}_foreground": getattr(case.foreground, name) for name in METRICS}
    if has_foreground or len(case.classes) > 1:
        metrics |= {
            f"{name}_{value}": getattr(agreement, name) for value, agreement in case.classes.items() for name in METRICS
        }
    return metrics
