"""Evaluate masks with labels, from matching the files to the summary of all cases; ejection fraction of two masks."""

from sdseg_monai.evaluation.agreement import (
    METRICS,
    NSD_TOLERANCE,
    Agreement,
    CaseMetrics,
    Evaluation,
    Protocol,
    compare_masks,
    compare_officially,
    evaluate_case,
    evaluate_folders,
    evaluate_pairs,
)
from sdseg_monai.evaluation.ejection import Ejection, measure_ejection
from sdseg_monai.evaluation.pairs import case_name, list_cases, match_cases, match_images, pair_cases
from sdseg_monai.evaluation.summary import (
    has_class_means,
    mean_metrics,
    summarise,
    warning_texts,
    write_csv,
)

__all__ = [
    "METRICS",
    "NSD_TOLERANCE",
    "Agreement",
    "CaseMetrics",
    "Ejection",
    "Evaluation",
    "Protocol",
    "case_name",
    "compare_masks",
    "compare_officially",
    "evaluate_case",
    "evaluate_folders",
    "evaluate_pairs",
    "has_class_means",
    "list_cases",
    "match_cases",
    "match_images",
    "mean_metrics",
    "measure_ejection",
    "pair_cases",
    "summarise",
    "warning_texts",
    "write_csv",
]
