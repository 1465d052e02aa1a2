"""What segmenting one image results in, and its files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import nibabel as nib
import numpy as np

from sdseg_monai.about import __version__
from sdseg_monai.errors import InputError
from sdseg_monai.io.dicom import DICOM_SUFFIX, Series, write_seg
from sdseg_monai.io.files import check_outputs, write_atomically
from sdseg_monai.io.nifti_labels import label_extension
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
from sdseg_monai.io.warnings import ImageWarning

PICTURE_SUFFIX = ".png"
PROGRAM = "sdseg-monai"
GENERATOR = f"{PROGRAM} {__version__}"


@dataclass(frozen=True, repr=False)
class SegmentationResult:
    """The segmentation of one image, on its own grid; a picture is a volume of one slice, [H, W, 1].

    Attributes:
        labels: class of each voxel, [X, Y, Z], uint8; 0 for the background, :data:`~sdseg_monai.io.segments.UNSURE`
            where the model abstained.
        scores: of each class but the background, [C, X, Y, Z], float32 in [0, 1].
        confidence: how sure the class is, [X, Y, Z], float32 in [0, 1], see
            :func:`~sdseg_monai.networks.codes.score_margin`.
        affine: from voxel to RAS+ millimetres, [4, 4], float64; of a picture the identity.
        segments: what the values of ``labels`` stand for, as far as the bundle says, the background left out.
        source: the image, whose header or references the files take over.
        warnings: what its user must know before the mask is trusted.
        manifest: how the result came about: versions, device, bundle and hash of its weights, seed, seconds, volumes,
            warnings; filled in by :func:`sdseg_monai.segment`.

    Example:
        >>> result = sdseg_monai.segment("scan.nii.gz")  # doctest: +SKIP
        >>> result  # doctest: +SKIP
        SegmentationResult(35 x 51 x 35, Anterior hippocampus 1.52 ml, Posterior hippocampus 1.43 ml)
        >>> nibabel.save(result.to_nifti(), "mask.nii.gz")  # doctest: +SKIP
    """

    labels: np.ndarray
    scores: np.ndarray
    confidence: np.ndarray
    affine: np.ndarray
    segments: Mapping[int, Segment]
    source: Source
    warnings: list[ImageWarning] = field(default_factory=list)
    manifest: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        """Return shape, sizes and the number of warnings: arrays would fill the screen."""
        texts = [" x ".join(map(str, self.labels.shape))]
        if is_photograph(self.source):
            texts += [f"{name} {count} pixels" for name, count in self._by_name(self.voxel_counts).items()]
        else:
            texts += [f"{name} {volume:.2f} ml" for name, volume in self.volumes.items()]
        if self.warnings:
            texts.append(f"{len(self.warnings)} warnings")
        return f"{type(self).__name__}({', '.join(texts)})"

    @property
    def names(self) -> dict[int, str]:
        """What the values stand for; a class that the bundle does not name is called by its number."""
        known = {value: segment.name for value, segment in self.segments.items()}
        return {value: f"class {value}" for value in range(1, len(self.scores) + 1)} | known

    @property
    def voxel_ml(self) -> float:
        """Volume of a voxel in ml."""
        return voxel_millilitres(self.affine)

    @property
    def voxel_counts(self) -> np.ndarray:
        """Voxels of each class but the background, [C], int64; in a picture its pixels."""
        end = len(self.scores) + 1  # beyond lies what was abstained from
        return np.bincount(self.labels.ravel(), minlength=end)[1:end]

    @property
    def volumes(self) -> dict[str, float]:
        """Volume of each class but the background by its name, in ml; of a picture, which has no scale, none."""
        return {} if is_photograph(self.source) else self._by_name(self.voxel_counts * self.voxel_ml)

    @property
    def sizes(self) -> dict[str, dict[str, Any]]:
        """Volume of each class by its name under ``volume_ml``, rounded; of a picture its ``pixels``."""
        if is_photograph(self.source):
            return {"pixels": self._by_name(self.voxel_counts)}
        return {"volume_ml": self._by_name((self.voxel_counts * self.voxel_ml).round(4))}

    @property
    def summary(self) -> dict[str, Any]:
        """What else there is to say in one line, as for JSON; of a single score nothing."""
        return {}

    def _by_name(self, values: np.ndarray) -> dict[str, Any]:
        names = [self.names[value] for value in range(1, len(self.scores) + 1)]
        return dict(zip(names, values.tolist(), strict=True))

    def abstain(self, below: float) -> Self:
        """Return the same with :data:`UNSURE` in ``labels`` where the confidence, in [0, 1], lies below ``below``."""
        labels = np.where(self.confidence < below, np.uint8(UNSURE), self.labels)
        return replace(self, labels=labels, segments={**self.segments, UNSURE: UNSURE_SEGMENT})

    @property
    def maps(self) -> dict[str, np.ndarray]:
        """What can be written beside the mask, [X, Y, Z] each, by name: the :func:`score_names` and ``confidence``."""
        return {**dict(zip(score_names(len(self.scores)), self.scores, strict=True)), "confidence": self.confidence}

    def to_nifti(self) -> nib.Nifti1Image:
        """Return the mask on the image's grid, with the names of its values in an extension of the header.

        Of a NIfTI file it has the sform, qform and their codes; of a picture, which has no place in space, a grid of
        1 mm pixels.
        """
        return nifti_image(self.labels, self._grid, label_extension(self.segments))

    def save(self, path: str | Path, maps: Mapping[str, str | Path] | None = None) -> None:
        """Write the mask, what its values stand for and the manifest as JSON beside it, and the :attr:`maps` named.

        The suffix of ``path`` says how: ``.nii.gz``, ``.nii``, ``.nrrd`` or ``.mha`` on the image's grid, NIfTI with
        the names of the values in an extension of its header; ``.dcm``, of a DICOM series, as DICOM SEG; ``.png``, of a
        picture, in black and white.

        Raises:
            InputError: the suffix is another or does not suit the image, a map is unknown, or a file is the image or
                another's, or cannot be written.
        """
        path, files = Path(path), {name: Path(target) for name, target in (maps or {}).items()}
        suffixes, known = mask_suffixes(self.source), self.maps
        if not path.name.lower().endswith(suffixes) or path.name.lower() in suffixes:
            raise InputError(f"{path}: expected a file ending in {', '.join(suffixes)}")
        for name in files:
            if name not in known:
                raise InputError(f"no map is called {name!r}, expected {', '.join(known)}")
        check_sidecar(sidecar(path))
        check_outputs(source_files(self.source), [path, sidecar(path), *files.values()])
        for name, target in files.items():  # first: a mask is the sign that a case is done
            write_volume(target, known[name], self._grid)
        if path.suffix.lower() == DICOM_SUFFIX and isinstance(self.source, Series):
            write_seg(path, self.labels, self.source, self.segments)
        elif is_photograph(self.source):
            write_picture_mask(path, self.labels[..., 0])
        else:
            nifti = path.name.lower().endswith(NIFTI_SUFFIXES)
            write_volume(path, self.labels, self._grid, extension=label_extension(self.segments) if nifti else None)
        about = json.dumps({"generator": GENERATOR, "labels": self._described(), **self.manifest}, indent=1) + "\n"
        write_atomically(sidecar(path), lambda temporary: temporary.write_text(about))

    def _described(self) -> dict[int, dict[str, Any]]:
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
    """Return what the file of an image's mask may end in."""
    if is_photograph(source):
        return (PICTURE_SUFFIX,)
    return (*VOLUME_SUFFIXES, DICOM_SUFFIX) if isinstance(source, Series) else VOLUME_SUFFIXES


def sidecar(mask: Path) -> Path:
    """Return the JSON file beside a mask."""
    stem = mask.name.removesuffix(".gz")
    return mask.with_name(f"{stem[: -len(Path(stem).suffix)]}.json")


def check_sidecar(path: Path) -> None:
    """Raise :class:`InputError` if another's file would be replaced: images, lists and configs have such names too."""
    if not path.exists():
        return
    try:
        ours = json.loads(path.read_text())["generator"].startswith(PROGRAM)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        ours = False
    if not ours:
        raise InputError(f"{path}: is not of a mask and would be replaced, name another output")


def score_names(count: int) -> list[str]:
    """Return what the scores of so many classes are called: ``score`` alone, or ``score_1``, ``score_2`` and so on."""
    return ["score"] if count == 1 else [f"score_{value}" for value in range(1, count + 1)]
