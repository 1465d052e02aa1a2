"""The functional groups of a multi-frame file: what applies to all frames (shared), and to one of them (per frame)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from sdseg_monai.errors import InputError
from sdseg_monai.io.dicom.instances import decimal_of, text_of
from sdseg_monai.io.dicom.values import check_meaning

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

KEYWORDS = ["SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"]
RESCALE = {"RescaleSlope": 1.0, "RescaleIntercept": 0.0}  # with the values of a header without them


def functional_group(image: Dataset, index: int, sequence: str) -> Dataset:
    """Return a functional group macro of a frame: from the per-frame groups, or else from the shared ones.

    Raises:
        KeyError, AttributeError, IndexError: there is none.
    """
    frame_groups = image.PerFrameFunctionalGroupsSequence[index]
    return (frame_groups if sequence in frame_groups else image.SharedFunctionalGroupsSequence[0])[sequence][0]


def rescaling(image: Dataset, index: int) -> Dataset:
    """Return the dataset whose RescaleSlope and RescaleIntercept apply to a frame: that of a macro, or the file's."""
    try:
        return functional_group(image, index, "PixelValueTransformationSequence")
    except (KeyError, AttributeError, IndexError):
        return image


def check_groups(image: Dataset, count: int, name: str) -> None:
    """Check that the functional groups change the meaning of no pixel in a way that is not applied.

    Args:
        image: a multi-frame file with groups for each of its frames.
        count: number of frames.
        name: of the file in messages.

    Raises:
        InputError: a group has a Modality LUT, or what :func:`~sdseg_monai.io.dicom.values.check_meaning` refuses; or a
            frame has several different slopes or intercepts, a slope and a Modality LUT, or several frames of
            reference.
    """
    shared_macros = list(_macros(image.get("SharedFunctionalGroupsSequence") or []))
    references = {text_of(image, "FrameOfReferenceUID")}
    for macro in shared_macros:
        _check_macro(macro, name)
        references.add(text_of(macro, "FrameOfReferenceUID"))
    shared_scales = [macro for macro in shared_macros if any(keyword in macro for keyword in RESCALE)]
    for index in range(count):
        frame_name = f"{name}, frame {index + 1}"
        frame_macros = list(_macros([image.PerFrameFunctionalGroupsSequence[index]]))
        scale = rescaling(image, index)
        if "ModalityLUTSequence" in image and scale is not image:
            raise InputError(
                f"{frame_name}: has both a Modality LUT and a RescaleSlope of its own, expected one of them"
            )
        for macro in frame_macros:
            _check_macro(macro, frame_name)
            references.add(text_of(macro, "FrameOfReferenceUID"))
        for macro in [*shared_scales, *frame_macros]:
            _check_scale(macro, scale, frame_name)
    if len(references - {""}) > 1:
        raise InputError(
            f"{name}: its frames are in several frames of reference (FrameOfReferenceUID), so that their positions "
            "cannot be compared, expected one"
        )


def check_slice_groups(header: Dataset, name: str) -> None:
    """Check that the functional groups of a single slice, if there are any, change nothing that its header says.

    Raises:
        InputError: a group has a Modality LUT, another slope or intercept, or what
            :func:`~sdseg_monai.io.dicom.values.check_meaning` refuses.
    """
    for keyword in KEYWORDS:
        for macro in _macros(header.get(keyword) or []):
            _check_macro(macro, name)
            _check_scale(macro, header, name)


def _macros(groups: list[Dataset]) -> Iterator[Dataset]:
    """Yield the functional groups themselves, where no element but a macro belongs, and the items of each macro."""
    for group in groups:
        yield group
        for element in group:
            if element.VR == "SQ":
                yield from element.value


def _check_macro(macro: Dataset, name: str) -> None:
    if "ModalityLUTSequence" in macro:
        raise InputError(
            f"{name}: a Modality LUT among its functional groups, which is not applied, expected one for the file, or "
            "RescaleSlope and RescaleIntercept"
        )
    check_meaning(macro, name)


def _check_scale(macro: Dataset, scale: Dataset, name: str) -> None:
    for keyword, default in RESCALE.items():
        number, applied = decimal_of(macro, keyword), decimal_of(scale, keyword)
        if number is not None and number != (default if applied is None else applied):
            raise InputError(f"{name}: its functional groups have several {keyword}s, expected one")
