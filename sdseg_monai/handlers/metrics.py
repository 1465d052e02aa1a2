"""The files of an evaluation's metrics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ignite.distributed as idist
from ignite.engine import Engine
from monai.handlers import MetricsSaver, write_metrics_reports
from monai.utils import string_list_all_gather


class ClassMetricsSaver(MetricsSaver):
    """Write the files of MONAI's MetricsSaver, with columns and lines that carry the classes' own labels.

    MONAI's writer takes labels, but its handler does not: it counts the classes from ``class0``, although the first of
    them is class 1 where the background is left out.

    Args:
        class_labels: a label for each class of the details, without commas.
        options: of MetricsSaver, except ``save_rank``; metrics and details are named, not ``*``.
    """

    def __init__(self, class_labels: Sequence[str], **options: Any) -> None:
        super().__init__(**options)
        self.class_labels = list(class_labels)

    def __call__(self, engine: Engine) -> None:
        """Write the files at the end of the evaluation, in the first process."""
        filenames = string_list_all_gather(self._filenames) if idist.get_world_size() > 1 else self._filenames
        if idist.get_rank() != self.save_rank:
            return
        write_metrics_reports(
            self.save_dir,
            filenames,
            {name: engine.state.metrics[name] for name in self.metrics or ()},
            {name: engine.state.metric_details[name] for name in self.metric_details or ()},
            self.summary_ops,
            class_labels=self.class_labels,
        )
