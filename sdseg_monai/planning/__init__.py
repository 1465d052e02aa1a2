"""A bundle for data that nobody has configured yet: look at them, propose, write it down."""

from sdseg_monai.planning.fingerprint import Case, Fingerprint, fingerprint_folders
from sdseg_monai.planning.init_bundle import BundlePlan, init_bundle
from sdseg_monai.planning.proposal import Choice, Grid, Schedule

__all__ = [
    "BundlePlan",
    "Case",
    "Choice",
    "Fingerprint",
    "Grid",
    "Schedule",
    "fingerprint_folders",
    "init_bundle",
]
