"""Evaluate masks with labels: match the files, compute metrics for each case, summarise them over all cases."""

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
    "pair_cases",
    "summarise",
    "warning_texts",
    "write_csv",
]
