"""Masks against labels: who belongs to whom, how well they agree, and what that says of all cases."""

from sdseg_monai.evaluation.agreement import (
    METRICS,
    NSD_TOLERANCE,
    Agreement,
    CaseMetrics,
    Protocol,
    compare_masks,
    compare_officially,
    evaluate_case,
    evaluate_folders,
    read_mask,
)
from sdseg_monai.evaluation.pairs import list_labels, match_cases
from sdseg_monai.evaluation.summary import mean_metrics, summarise, write_csv

__all__ = [
    "METRICS",
    "NSD_TOLERANCE",
    "Agreement",
    "CaseMetrics",
    "Protocol",
    "compare_masks",
    "compare_officially",
    "evaluate_case",
    "evaluate_folders",
    "list_labels",
    "match_cases",
    "mean_metrics",
    "read_mask",
    "summarise",
    "write_csv",
]
