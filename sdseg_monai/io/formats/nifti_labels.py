"""Names and colours of a mask's values in an extension of its NIfTI header, as TotalSegmentator writes them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree

from nibabel.nifti1 import Nifti1Extension

from sdseg_monai.io.formats.nifti import open_nifti
from sdseg_monai.io.segments import Segment

CARET = 30  # NIfTI's registered code for Caret's XML; TotalSegmentator writes 0, "unknown"


def label_extension(segments: Mapping[int, Segment]) -> Nifti1Extension | None:
    """Return the label table of ``segments``, by the mask's values, in Caret's XML; None where there are none."""
    if not segments:
        return None
    root = ElementTree.Element("CaretExtension")
    information = ElementTree.SubElement(root, "VolumeInformation", Index="0")
    table = ElementTree.SubElement(information, "LabelTable")
    for value, segment in segments.items():
        red, green, blue = (f"{level / 255:.4f}" for level in segment.colour)
        label = ElementTree.SubElement(table, "Label", Key=str(value), Red=red, Green=green, Blue=blue, Alpha="1")
        label.text = segment.name
    ElementTree.SubElement(information, "VolumeType").text = "Label"
    return Nifti1Extension(CARET, ElementTree.tostring(root, "utf-8", xml_declaration=True))


def read_label_names(path: Path) -> dict[int, str]:
    """Return the names in the label table of a NIfTI file by the mask's values; empty where it has no readable one."""
    for extension in open_nifti(path).header.extensions:
        content = extension.content
        if isinstance(content, bytes) and b"<CaretExtension" in content:
            try:
                labels = ElementTree.fromstring(content.rstrip(b"\0").decode()).iter("Label")
                return {int(label.attrib["Key"]): label.text or "" for label in labels}
            except (ElementTree.ParseError, ValueError, KeyError):
                continue
    return {}
