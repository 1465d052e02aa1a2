"""The result of segmenting one image, and the files that it is saved to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import nibabel as nib
import numpy as np

from sdseg_monai.about import __version__
from sdseg_monai.errors import ArgumentError, InputError
from sdseg_monai.inference.measures import Measurement, measure_texts, take_measure, values_of
from sdseg_monai.io.arrays import chunk_slices, chunks, make_array, release
from sdseg_monai.io.class_names import sidecar
from sdseg_monai.io.dicom import DICOM_SUFFIX, Series, write_seg
from sdseg_monai.io.files import check_outputs, write_atomically
from sdseg_monai.io.formats.nifti_labels import label_extension
from sdseg_monai.io.pictures import write_picture_mask
from sdseg_monai.io.segments import UNSURE, UNSURE_SEGMENT, Segment
from sdseg_monai.io.sources import Source, is_photograph, source_files
from sdseg_monai.io.volumes import (
    NIFTI_SUFFIXES,
    VOLUME_SUFFIXES,
    Volume,
    nifti_image,
    voxel_millilitres,
    write_volume,
)
from sdseg_monai.io.warnings import NOT_TRUSTED, ImageWarning, not_trusted

KEPT = SCORES, CONFIDENCE = ("scores", "confidence")  # the maps that a result may have beside its mask
PICTURE_SUFFIX = ".png"
PROGRAM = "sdseg-monai"
GENERATOR = f"{PROGRAM} {__version__}"


@dataclass(frozen=True, repr=False)
class SegmentationResult:
    """The segmentation of one image, on the image's own grid. A photograph is a volume of one slice, [H, W, 1].

    Attributes:
        labels: the mask: class of each voxel, [X, Y, Z], uint8; 0 for the background, 255
            (:data:`~sdseg_monai.io.segments.UNSURE`) for voxels below ``abstain_below``.
        kept: :attr:`scores` and :attr:`confidence` by these names, where they were asked for.
        affine: from voxels to RAS+ millimetres, [4, 4], float64; of a photograph the identity.
        segments: what each value of ``labels`` stands for, without the background; empty where the bundle does not say
            it.
        num_classes: number of classes, the background included.
        source: the image; the saved files take over its header (NIfTI) or its references (DICOM).
        warnings: what the user must know before the mask is trusted, each a record with ``kind`` and ``text``.
        manifest: how the result was made: versions, device, bundle, hash of the weights, options, seconds, volumes,
            warnings; empty where it was not made by :func:`sdseg_monai.segment` or :class:`sdseg_monai.Pipeline`.
        pixel_mm: edge of a photograph's pixels, in mm; None where it is not known, and for volumes.

    Example:
        >>> import nibabel, sdseg_monai
        >>> result = sdseg_monai.segment("scan.nii.gz")  # doctest: +SKIP
        >>> result  # doctest: +SKIP
        SegmentationResult(35 x 51 x 35, Anterior hippocampus 1.52 ml, Posterior hippocampus 1.43 ml)
        >>> nibabel.save(result.to_nifti(), "mask.nii.gz")  # doctest: +SKIP
    """

    labels: np.ndarray
    kept: Mapping[str, np.ndarray]
    affine: np.ndarray
    segments: Mapping[int, Segment]
    num_classes: int
    source: Source
    warnings: list[ImageWarning] = field(default_factory=list)
    manifest: Mapping[str, Any] = field(default_factory=dict)
    pixel_mm: float | None = None

    def __repr__(self) -> str:
        """Return the shape, the sizes and the number of warnings in one line, without the arrays."""
        texts = [] if self.trusted else [NOT_TRUSTED]
        texts.append(" x ".join(map(str, self.labels.shape)))
        if is_photograph(self.source):
            texts += [f"{name} {count} pixels" for name, count in self._by_name(self.voxel_counts).items()]
        else:
            texts += [f"{name} {volume:.2f} ml" for name, volume in self.volumes.items()]
        texts += [f"{name} {text}" for name, text in measure_texts({"measures": self.measures}).items()]
        if self.warnings:
            texts.append("1 warning" if len(self.warnings) == 1 else f"{len(self.warnings)} warnings")
        return f"{type(self).__name__}({', '.join(texts)})"

    @property
    def scores(self) -> np.ndarray:
        """Score of each class without the background, [C, X, Y, Z], float32 in [0, 1].

        Raises:
            ArgumentError: no score was among the ``maps`` that were asked for.
        """
        return self._kept(SCORES)

    @property
    def confidence(self) -> np.ndarray:
        """How sure the class of each voxel is, see :func:`~sdseg_monai.networks.codes.score_margin`.

        [X, Y, Z], float32 in [0, 1].

        Raises:
            ArgumentError: it was not among the ``maps`` that were asked for.
        """
        return self._kept(CONFIDENCE)

    def _kept(self, name: str) -> np.ndarray:
        if name not in self.kept:
            raise ArgumentError(f"a result without {name}: ask for it by maps, see Pipeline.__call__")
        return self.kept[name]

    @property
    def names(self) -> dict[int, str]:
        """Name of each value of ``labels`` without the background; a class without a name is ``class 1`` and so on."""
        segment_names = {value: segment.name for value, segment in self.segments.items()}
        return {value: f"class {value}" for value in range(1, self.num_classes)} | segment_names

    @property
    def voxel_ml(self) -> float:
        """Volume of a voxel, in ml."""
        return voxel_millilitres(self.affine)

    @cached_property
    def voxel_counts(self) -> np.ndarray:
        """Number of voxels of each class without the background, [C], int64; of a photograph the number of pixels."""
        counts = np.zeros(self.num_classes - 1, dtype=np.int64)
        for part in chunks(self.labels):
            counts += [np.count_nonzero(part == value) for value in range(1, self.num_classes)]
        return counts

    @property
    def volumes(self) -> dict[str, float]:
        """Volume of each class by its name, in ml, without the background; empty for a photograph."""
        return {} if is_photograph(self.source) else self._by_name(self.voxel_counts * self.voxel_ml)

    @property
    def sizes(self) -> dict[str, dict[str, Any]]:
        """For JSON: under ``volume_ml`` the rounded volume of each class by name; of a photograph under ``pixels``.

        Of a photograph whose :attr:`pixel_mm` is known, ``area_mm2`` has the areas too.
        """
        if is_photograph(self.source):
            pixels = {"pixels": self._by_name(self.voxel_counts)}
            if self.pixel_mm is None:
                return pixels
            return {**pixels, "area_mm2": self._by_name((self.voxel_counts * self.pixel_mm**2).round(4))}
        return {"volume_ml": self._by_name((self.voxel_counts * self.voxel_ml).round(4))}

    @property
    def measurements(self) -> list[Measurement]:
        """What the bundle measures of its segments beside their sizes; computed anew at each access."""
        edges, unit = self._edges
        return [
            take_measure(measure, segment.name, self.labels == value, edges, unit)
            for value, segment in self.segments.items()
            for measure in segment.measures
        ]

    @property
    def measures(self) -> dict[str, dict[str, float | None]]:
        """The values of :attr:`measurements` by segment, such as ``{"Fetal head": {"circumference_mm": 175.3}}``.

        A mask that has no such value, as an empty one, has None.
        """
        return values_of(self.measurements)

    @property
    def not_trusted(self) -> str:
        """``NOT TRUSTED: `` and how the image contradicts the network's training, in one line; empty where it does not.

        Such a mask is made only with ``force``. Its files carry this text.
        """
        return not_trusted(self.warnings)

    @property
    def trusted(self) -> bool:
        """Whether no contradiction to the network's training is known; True does not mean that the mask is right."""
        return not self.not_trusted

    @property
    def trust(self) -> dict[str, Any]:
        """For JSON: :attr:`trusted`, and, where it is False, :attr:`not_trusted`."""
        return {"trusted": True} if self.trusted else {"trusted": False, "not_trusted": self.not_trusted}

    @property
    def summary(self) -> dict[str, Any]:
        """For JSON: what the samples say together; empty where there is one score."""
        return {}

    @property
    def _edges(self) -> tuple[tuple[float, float], str]:
        """Lengths of a voxel's edges along X and Y, and their unit."""
        if is_photograph(self.source):
            return ((1.0, 1.0), "pixels") if self.pixel_mm is None else ((self.pixel_mm, self.pixel_mm), "mm")
        along_x, along_y = np.linalg.norm(self.affine[:3, :2], axis=0).tolist()
        return (along_x, along_y), "mm"

    def _by_name(self, values: np.ndarray) -> dict[str, Any]:
        names = [self.names[value] for value in range(1, self.num_classes)]
        return dict(zip(names, values.tolist(), strict=True))

    def abstain(self, below: float) -> Self:
        """Return this result with the value 255, "unsure", in ``labels`` where the confidence is less than ``below``.

        Args:
            below: confidence, in [0, 1].

        Raises:
            ArgumentError: the result has no :attr:`confidence`.
        """
        labels = make_array(self.labels.shape, np.uint8)
        for part in chunk_slices(self.confidence):
            is_unsure = self.confidence[..., part] < below
            labels[..., part] = np.where(is_unsure, np.uint8(UNSURE), self.labels[..., part])
            for array in (self.confidence, self.labels, labels):
                release(array)
        return replace(self, labels=labels, segments={**self.segments, UNSURE: UNSURE_SEGMENT})

    @property
    def maps(self) -> dict[str, np.ndarray]:
        """The maps that :meth:`save` can write beside the mask, by name, each [X, Y, Z], float32.

        They are ``score``, or ``score_1``, ``score_2`` and so on where there are several classes, and ``confidence``;
        those that were not asked for are missing.
        """
        maps: dict[str, np.ndarray] = {}
        if SCORES in self.kept:
            maps |= zip(score_names(len(self.scores)), self.scores, strict=True)
        return {**maps, CONFIDENCE: self.confidence} if CONFIDENCE in self.kept else maps

    def to_nifti(self) -> nib.Nifti1Image:
        """Return the mask as a nibabel image, uint8, on the image's grid.

        The names of the values are in an extension of the header. If the image was a NIfTI file, the mask has its
        sform and qform with their codes. A photograph has no scale: its mask has pixels of 1 mm. The header's descrip
        begins with :attr:`not_trusted`.
        """
        return nifti_image(self.labels, self._grid, label_extension(self.segments), self.not_trusted)

    def save(self, path: str | Path, maps: Mapping[str, str | Path] | None = None) -> None:
        """Write the mask, a JSON file beside it, and some of the :attr:`maps`.

        The JSON file holds the manifest and what each value of the mask stands for. The text :attr:`not_trusted` stands
        in it, in the header of a NIfTI or NRRD file, and in the descriptions of a DICOM SEG.

        Args:
            path: file of the mask; its suffix is the format: ``.nii.gz`` or ``.nii`` (with the names of the values in
                the header), ``.nrrd`` or ``.mha``; ``.dcm`` (DICOM SEG) for a DICOM series; only ``.png``, in black and
                white, for a photograph.
            maps: files of the maps to write, by the maps' names; volumes.

        Raises:
            InputError: the image's mask cannot have this suffix, a map is unknown, a file would replace the image or a
                JSON file that does not belong to a mask, or a file cannot be written.
        """
        path, files = Path(path), {name: Path(target) for name, target in (maps or {}).items()}
        suffixes, map_arrays = mask_suffixes(self.source), self.maps
        if not path.name.lower().endswith(suffixes) or path.name.lower() in suffixes:
            raise InputError(f"{path}: expected a file ending in {', '.join(suffixes)}")
        for name in files:
            if name not in map_arrays:
                raise InputError(f"no map is called {name!r}, expected {', '.join(map_arrays)}")
        beside = sidecar(path)
        check_sidecar(beside)
        check_outputs(source_files(self.source), [path, beside, *files.values()])
        for name, target in files.items():  # maps first: where the mask exists, the maps are complete
            write_volume(target, map_arrays[name], self._grid, description=self.not_trusted)
        if path.suffix.lower() == DICOM_SUFFIX and isinstance(self.source, Series):
            write_seg(path, self.labels, self.source, self.segments, self.not_trusted)
        elif is_photograph(self.source):
            write_picture_mask(path, self.labels[..., 0])
        else:
            is_nifti = path.name.lower().endswith(NIFTI_SUFFIXES)
            extension = label_extension(self.segments) if is_nifti else None
            write_volume(path, self.labels, self._grid, extension=extension, description=self.not_trusted)
        about = {"generator": GENERATOR, "mask": path.name, "labels": self._label_records(), **self.manifest}
        text = json.dumps(about, indent=1) + "\n"
        write_atomically(beside, lambda temporary: temporary.write_text(text))

    def _label_records(self) -> dict[int, dict[str, Any]]:
        return {
            value: {"name": segment.name, "color": segment.colour, "code": segment.code}
            for value, segment in self.segments.items()
        }

    @property
    def _grid(self) -> Path | Volume:
        if isinstance(self.source, Path) and not is_photograph(self.source):
            return self.source
        return Volume(self.labels, self.affine)


def mask_suffixes(source: Source) -> tuple[str, ...]:
    """Return the suffixes that the file of this image's mask can have."""
    if is_photograph(source):
        return (PICTURE_SUFFIX,)
    return (*VOLUME_SUFFIXES, DICOM_SUFFIX) if isinstance(source, Series) else VOLUME_SUFFIXES


def check_sidecar(path: Path) -> None:
    """Check that the JSON file beside a mask does not replace a file of the user, such as a datalist or a config.

    Raises:
        InputError: there is a file of this name that this package did not write beside a mask.
    """
    if not path.exists():
        return
    try:
        is_sidecar = json.loads(path.read_text())["generator"].startswith(PROGRAM)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        is_sidecar = False
    if not is_sidecar:
        raise InputError(f"{path}: is not of a mask and would be replaced, name another output")


def score_names(count: int) -> list[str]:
    """Return the names of the scores of ``count`` classes: ``score``, or of several ``score_1``, ``score_2``, ..."""
    return ["score"] if count == 1 else [f"score_{value}" for value in range(1, count + 1)]
