"""The ejection fraction of a heart's ventricle, from masks of its cavity at end-diastole and end-systole."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sdseg_monai.errors import ArgumentError, InputError
from sdseg_monai.io.label_maps import check_label_map, read_mask
from sdseg_monai.io.pictures import is_picture
from sdseg_monai.io.segments import UNSURE
from sdseg_monai.io.volumes import voxel_millilitres
from sdseg_monai.io.voxel_order import on_same_grid
from sdseg_monai.io.warnings import ImageWarning, log_warnings

SPACING_TOLERANCE = 1e-3  # relative: formats store float32, or texts of a few digits


@dataclass(frozen=True)
class Ejection:
    """What a ventricle ejects from end-diastole to end-systole.

    Attributes:
        label: value of the cavity in the masks.
        end_diastole_ml: volume of the cavity at end-diastole, in ml: as right as the size of a voxel in the file.
        end_systole_ml: the same at end-systole.
        spacing: lengths of a voxel's edges, in mm.
        warnings: those about the two files.
    """

    label: int
    end_diastole_ml: float
    end_systole_ml: float
    spacing: tuple[float, float, float]
    warnings: Sequence[ImageWarning] = ()

    @property
    def fraction(self) -> float:
        """Ejection fraction, in percent, 0 to 100: the share of the end-diastolic volume that is ejected.

        The size of a voxel cancels in it, so it is right also where a file has a nominal one.
        """
        return 100 * (1 - self.end_systole_ml / self.end_diastole_ml)


def measure_ejection(end_diastole: Path, end_systole: Path, label: int | None = None) -> Ejection:
    """Measure the ejection fraction from the masks of two phases of one heart, such as those of ``sdseg segment``.

    Args:
        end_diastole: file of the mask at end-diastole, a label map of several slices.
        end_systole: file of the mask at end-systole, with voxels of the same size. If it lies on another grid, there is
            a warning: the phases are then often cut to the slices that were drawn.
        label: value of the cavity; None where the masks have one value beside 0.

    Returns:
        The volumes and their ejection fraction, with the warnings about the two files, which are logged too.

    Raises:
        InputError: a file cannot be used, is a picture or a single slice, or does not hold whole numbers; the two have
            voxels of different sizes; a cavity is empty, or the same at both phases; or the one at end-systole is the
            larger one.
        ArgumentError: the masks have several values and ``label`` chooses none, or neither has the value ``label``.

    Example:
        >>> from pathlib import Path
        >>> from sdseg_monai.evaluation import measure_ejection
        >>> measure_ejection(Path("end_diastole.nii.gz"), Path("end_systole.nii.gz")).fraction  # doctest: +SKIP
        58.2
    """
    paths = (end_diastole, end_systole)
    for path in paths:
        if is_picture(path):
            raise InputError(f"{path}: a picture has no volume, expected the mask of a volume")
    volumes = [read_mask(path) for path in paths]
    warnings = {path: [*volume.warnings] for path, volume in zip(paths, volumes, strict=True)}
    for path, volume in zip(paths, volumes, strict=True):
        if 1 in volume.array.shape:
            raise InputError(f"{path}: a single slice, expected all slices of the cavity, which make its volume")
    edges, systole_edges = (np.linalg.norm(volume.affine[:3, :3], axis=0) for volume in volumes)
    if not np.allclose(sorted(edges), sorted(systole_edges), rtol=SPACING_TOLERANCE):
        raise InputError(
            f"{end_systole}: voxels of {edges_text(systole_edges)} mm, expected {edges_text(edges)} mm as in "
            f"{end_diastole}: the size of a voxel cancels in the fraction only if it is the same at both phases"
        )
    try:
        on_same_grid(end_diastole, volumes[0], end_systole, volumes[1])
    except InputError:
        shapes = " and ".join(" x ".join(map(str, volume.array.shape)) for volume in volumes)
        text = f"{end_diastole.name} and {end_systole.name} lie on different grids ({shapes} voxels): the fraction is "
        text += "right only if each holds all slices of the cavity"
        warnings[end_systole].append(ImageWarning("geometry", text))
    for path, file_warnings in warnings.items():
        log_warnings(path, file_warnings)
    masks = [
        check_label_map(path, volume.array, most_values=UNSURE, allow_unsure=False)
        for path, volume in zip(paths, volumes, strict=True)
    ]
    label = _choose_label(paths, masks, label)
    counts = [int(np.count_nonzero(mask == label)) for mask in masks]  # voxels
    for path, count in zip(paths, counts, strict=True):
        if not count:
            raise InputError(f"{path}: no voxel has the value {label}: the cavity is empty, expected one at each phase")
    if masks[0].shape == masks[1].shape and np.array_equal(masks[0] == label, masks[1] == label):
        raise InputError(f"{end_systole}: the same cavity as in {end_diastole}, expected the mask of another phase")
    diastole_ml, systole_ml = (count * voxel_millilitres(volumes[0].affine) for count in counts)
    if systole_ml > diastole_ml:
        raise InputError(
            f"{end_systole}: {systole_ml:.4g} ml at end-systole, but {diastole_ml:.4g} ml at end-diastole "
            f"({end_diastole}), expected less: are the two phases exchanged?"
        )
    x, y, z = edges.tolist()
    return Ejection(label, diastole_ml, systole_ml, (x, y, z), [*warnings[end_diastole], *warnings[end_systole]])


def edges_text(edges: Iterable[float]) -> str:
    """Return the lengths of a voxel's edges for people, such as ``1.25 x 1.25 x 8``."""
    return " x ".join(f"{edge:.4g}" for edge in edges)


def _choose_label(paths: tuple[Path, Path], masks: Sequence[np.ndarray], label: int | None) -> int:
    values = sorted({int(value) for mask in masks for value in np.unique(mask)} - {0})
    text = ", ".join(map(str, values))
    if not values:
        raise InputError(f"{paths[0]}: empty, as is {paths[1]}, expected masks of a cavity")
    if label is None and len(values) > 1:
        raise ArgumentError(
            f"{paths[0]} and {paths[1]} have the values {text}: choose the cavity's with label={values[0]}"
        )
    if label is not None and label not in values:
        raise ArgumentError(
            f"label={label}: no voxel of {paths[0]} and {paths[1]} has this value, expected one of {text}"
        )
    return values[0] if label is None else label
