"""A run as one HTML file: what was run, what came of it, and the masks on the slices, without a network."""

from sdseg_monai.report.cases import Picture, ReportCase
from sdseg_monai.report.page import write_report

__all__ = ["Picture", "ReportCase", "write_report"]
