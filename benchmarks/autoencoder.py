"""How well a bundle's mask autoencoder reconstructs objects of each size: ``sdseg audit`` on procedural and real masks.

Writes the table in the bundle's README. The seed of the procedural masks was not used in the training. --labels adds a
folder of real labels, with the preprocessing of the bundle.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

from tqdm import tqdm

from lab.tables import ROOT, commit, hardware, markdown_table, replace_section
from sdseg_monai.data import ProceduralMasks
from sdseg_monai.errors import report_input_errors
from sdseg_monai.planning.audit import Audit, Reconstruction, audit_folder, audit_label, by_size, load_audit

HELD_OUT_SEED = 1000


def audit_procedural(audit: Audit, number: int) -> list[Reconstruction]:
    """Audit a number of procedural masks, each as a volume of one slice."""
    masks = ProceduralMasks(audit.size[0], number, HELD_OUT_SEED, audit.num_classes)
    return [
        row
        for index in tqdm(range(number))
        for row in audit_label(
            audit.autoencoder,
            masks[index]["label"][..., None],
            str(index),
            num_classes=audit.num_classes,
            size=audit.size,
            slice_axis=2,
        )
    ]


def table_rows(name: str, reconstructions: Iterable[Reconstruction]) -> list[list[object]]:
    """Return a row for each class and size."""
    by_class: dict[int, list[Reconstruction]] = {}
    for row in reconstructions:
        by_class.setdefault(row.label, []).append(row)
    return [
        [name, label, f"{b.smallest} px and more", b.count, f"{b.dice:.4f}", f"{b.worst:.4f}"]
        for label, rows in sorted(by_class.items())
        for b in by_size(rows)
    ]


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", default="sdseg")
    parser.add_argument("--number", type=int, default=400, help="procedural masks")
    parser.add_argument("--labels", type=Path, help="folder of real labels")
    report_input_errors()
    options = parser.parse_args()
    root = ROOT / "bundles" / options.bundle
    audit = load_audit(root)
    rows = table_rows(f"{options.number} procedural masks", audit_procedural(audit, options.number))
    if options.labels:
        reconstructions = audit_folder(audit, options.labels)
        rows += table_rows(
            f"{len({row.case for row in reconstructions})} labels of {options.labels.parent.name}", reconstructions
        )
    size = "x".join(map(str, audit.size))
    note = f"{size}; held-out seed {HELD_OUT_SEED}; {hardware()}; commit {commit()}; benchmarks/autoencoder.py."
    table = markdown_table(["masks", "class", "size in a slice", "slices", "mean Dice", "worst Dice"], rows)
    replace_section(root / "docs" / "README.md", "ceiling", f"{table}\n\n{note}")


if __name__ == "__main__":
    main()
