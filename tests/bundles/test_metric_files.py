"""What ``evaluating`` writes: Dice and IoU, of cases and of classes by their own labels."""

import csv

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.metrics import MeanIoU
from monai.networks import one_hot

from sdseg_monai.handlers import ClassMetricsSaver
from sdseg_monai.metrics import ClassIoU
from tests.bundles.overlays import train_and_evaluate
from tests.makers.bundles import read_metrics

METRICS = ["val_mean_dice", "val_mean_iou"]


def table(path):
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.mark.usefixtures("keep_global_state")
def test_an_evaluation_writes_dice_and_iou(volumes, tmp_path):
    _, dice, _ = train_and_evaluate(
        ("ablations/v_prediction",), volumes, tmp_path, epochs=3, learning_rate=0.01, warmup_steps=2
    )
    means = read_metrics(tmp_path / "eval")
    assert list(means) == METRICS and means["val_mean_dice"] == dice
    (dice_row,), (iou_row,) = (table(tmp_path / "eval" / f"{name}_raw.csv") for name in METRICS)
    assert list(iou_row) == ["filename", "label 1", "mean"] and iou_row["filename"] == dice_row["filename"]
    case = float(dice_row["label 1"])
    assert float(iou_row["label 1"]) == pytest.approx(case / (2 - case), abs=2e-4)
    assert means["val_mean_iou"] == pytest.approx(float(iou_row["label 1"]), abs=2e-4)
    lines = table(tmp_path / "eval" / "val_mean_iou_summary.csv")
    assert [line["class"] for line in lines] == ["label 1", "mean"]


def test_iou_of_class_maps_is_that_of_monais_one_hot_masks():
    generator = torch.Generator().manual_seed(0)
    prediction, label = (torch.randint(4, (3, 1, 9, 8, 2), generator=generator) for _ in range(2))
    label[0][label[0] == 2] = 0  # a class that the label lacks, and one that both lack
    prediction[1][prediction[1] == 3] = label[1][label[1] == 3] = 0
    metric = ClassIoU(include_background=False, num_classes=4, ignore_empty=False)
    reference = MeanIoU(include_background=False, ignore_empty=False)
    values = metric(prediction, label)
    torch.testing.assert_close(values, reference(*(one_hot(x, 4) for x in (prediction, label))))
    assert values[0, 1] == 0 and values[1, 2] == 1
    torch.testing.assert_close(metric.aggregate(), reference.aggregate())


def test_columns_and_lines_carry_the_labels(tmp_path):
    def evaluate(engine, batch):
        engine.state.metrics["val_mean_dice"] = 0.6
        engine.state.metrics["val_mean_iou"] = 0.5
        engine.state.metric_details = {"val_mean_iou": torch.tensor([[0.5, 0.25], [np.nan, 1.0]])}

    engine = Engine(evaluate)
    saver = ClassMetricsSaver(
        ["label 1", "label 2"],
        save_dir=str(tmp_path),
        metrics=["val_mean_iou"],
        metric_details=["val_mean_iou"],
        batch_transform=lambda batch: batch,
        summary_ops="*",
    )
    saver.attach(engine)
    engine.run([[{"filename_or_obj": "a.nii"}, {"filename_or_obj": "b.nii"}]])
    assert read_metrics(tmp_path) == {"val_mean_iou": 0.5}
    first, second = table(tmp_path / "val_mean_iou_raw.csv")
    assert list(first.values()) == ["a.nii", "0.5", "0.25", "0.375"]
    assert second["label 1"] == "nan" and second["label 2"] == "1.0"
    lines = table(tmp_path / "val_mean_iou_summary.csv")
    assert [line["class"] for line in lines] == ["label 1", "label 2", "mean"]
