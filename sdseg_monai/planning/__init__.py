"""Plan a bundle for new data: measure images and labels, propose settings with reasons, write the bundle."""

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
