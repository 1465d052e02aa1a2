"""How many images of each kind a bundle warns of or refuses, because they look unlike those of its training.

    python benchmarks/kinds.py --bundle skin_lesion_sdseg --images "dermoscopy, test" TEST --images endoscopy POLYPS

Writes the section ``kinds`` of the bundle's README. The images of a folder, or of a JSON datalist's list ``test``, are
taken; --most evenly spaced ones. A bundle for pictures gets the middle slice of a volume, along its last axis, as a
grey picture. --parts cuts parts of volumes at random places, of --part_size and with voxels of 1 mm: where that is the
field of view of the bundle's training, only what they show is unlike.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from PIL import Image
from tqdm import tqdm

from lab.bundles import BUNDLES
from lab.tables import check_section, commit, hardware, markdown_table, replace_section
from sdseg_monai.errors import ArgumentError, report_input_errors
from sdseg_monai.inference.segmenter import Segmenter
from sdseg_monai.io.segments import PHOTOGRAPHS
from sdseg_monai.io.sources import Source, is_photograph, list_sources, open_source, short_name
from sdseg_monai.io.volumes import read_volume
from sdseg_monai.io.warnings import LoggedWarnings

LEAST_SPREAD = 0.1  # of a part's intensities, relative to its volume's
MOST_TRIES = 1000
WINDOW = (0.5, 99.5)  # percentiles of a volume that become black and white


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", required=True)
    parser.add_argument("--images", nargs=2, action="append", required=True, metavar=("KIND", "PLACE"))
    parser.add_argument("--parts", nargs=2, action="append", default=[], metavar=("KIND", "PLACE"))
    parser.add_argument("--part_size", nargs=3, type=int, default=(36, 50, 36), metavar="N", help="voxels of a part")
    parser.add_argument("--dataset_dir", type=Path, help="to which the paths in a datalist are relative")
    parser.add_argument("--most", type=int, default=200, help="images of a kind")
    report_input_errors()
    options = parser.parse_args()
    readme = BUNDLES / options.bundle / "docs" / "README.md"
    check_section(readme, "kinds")
    segmenter = Segmenter(BUNDLES / options.bundle, device="cpu")
    with tempfile.TemporaryDirectory() as folder:
        rows = []
        for kind, place in options.images:
            sources = _sources(Path(place), options)
            if segmenter.modality == PHOTOGRAPHS and not is_photograph(sources[0]):
                sources = [_draw_middle(source, Path(folder)) for source in sources]
            rows.append(_row(segmenter, kind, sources))
        for kind, place in options.parts:
            part_folder = Path(folder, str(len(rows)))
            part_folder.mkdir()
            parts = _cut_parts(_sources(Path(place), options), part_folder, options.part_size, options.most)
            rows.append(_row(segmenter, kind, parts))
    table = markdown_table(["images", "number", "with a warning", "refused"], rows)
    note = f"{hardware()}; commit {commit()}; benchmarks/kinds.py."
    replace_section(readme, "kinds", f"{table}\n\n{note}")


def _sources(place: Path, options: argparse.Namespace) -> list[Source]:
    is_datalist = place.suffix == ".json"
    sources = list_sources(place, None, options.dataset_dir if is_datalist else None, "test" if is_datalist else None)
    indices = np.unique(np.linspace(0, len(sources) - 1, options.most).round().astype(int))
    return [sources[index] for index in indices]


def _draw_middle(source: Source, folder: Path) -> Source:
    volume = read_volume(Path(str(source))).array  # [X, Y, Z]
    low, high = np.percentile(volume, WINDOW)
    page = np.clip((volume[..., volume.shape[2] // 2].T - low) / max(high - low, 1e-6), 0, 1)
    path = folder / f"{Path(short_name(source)).name.partition('.')[0]}.png"
    Image.fromarray((255 * page).astype(np.uint8)).save(path)
    return open_source(path)


def _cut_parts(sources: list[Source], folder: Path, size: Sequence[int], number: int) -> list[Source]:
    """Write about ``number`` parts, as many of each volume, none of them of air alone; return them."""
    rng = np.random.default_rng(0)
    parts: list[Source] = []
    for source in sources:
        volume = read_volume(Path(str(source))).array.astype(np.float32)  # [X, Y, Z]
        volume -= min(volume.min(), 0)  # the intensities of CT would be refused
        for _ in range(max(1, number // len(sources))):
            path = folder / f"{len(parts)}.nii.gz"
            nib.save(nib.Nifti1Image(_cut_part(volume, size, rng), np.eye(4)), path)
            parts.append(open_source(path))
    return parts


def _cut_part(volume: np.ndarray, size: Sequence[int], rng: np.random.Generator) -> np.ndarray:
    """Return a part of ``volume`` [X, Y, Z] at a random place that shows something.

    Raises:
        SystemExit: no part does.
    """
    for _ in range(MOST_TRIES):
        corner = [rng.integers(0, max(1, n - edge + 1)) for n, edge in zip(volume.shape, size, strict=True)]
        part = volume[tuple(slice(start, start + edge) for start, edge in zip(corner, size, strict=True))]
        if part.std() > LEAST_SPREAD * volume.std():
            return part
    raise SystemExit(f"no part of {MOST_TRIES} has more than {LEAST_SPREAD:.0%} of the volume's spread")


def _row(segmenter: Segmenter, kind: str, sources: list[Source]) -> list[object]:
    """Return how many images got a warning about what they show, and how many were refused."""
    num_warned = num_refused = 0
    for source in tqdm(sources, desc=kind, leave=False):
        warnings = LoggedWarnings(short_name(source))
        try:
            segmenter.prepare(source, warnings)
        except ArgumentError:
            num_refused += 1
        else:
            num_warned += any(warning.kind != "geometry" for warning in warnings)
    return [kind, len(sources), *(f"{n} ({n / len(sources):.0%})" for n in (num_warned, num_refused))]


if __name__ == "__main__":
    main()
