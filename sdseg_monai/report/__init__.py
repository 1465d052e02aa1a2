"""Write a report: one HTML file with the settings of a run, its results, and the masks on the slices."""

from sdseg_monai.report.cases import Picture, ReportCase
from sdseg_monai.report.page import write_report

__all__ = ["Picture", "ReportCase", "write_report"]
