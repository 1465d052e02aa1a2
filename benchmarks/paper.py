"""All experiments of the paper on one dataset: train them, measure, draw figures, and write a report.

    python benchmarks/paper.py --study benchmarks/studies/kvasir_cpu.json --dataset_dir DIR --datalist JSON --output DIR

Trainings resume from their checkpoints, so the command can be given again at any time. The report is report.md in the
output folder, with a CSV file for each table and a PNG file for each figure.

    python benchmarks/paper.py --study benchmarks/studies/paper_btcv.json --dry-run

This parses all experiments and prints the parameters, the arithmetic, the memory and the hours of each training,
without data, weights or a GPU.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from lab import budget, comparison, dry_run, efficiency, figures, stability
from lab.citations import add_citations, cited_table
from lab.study import Study, add_study_options, open_study, train_all
from lab.tables import Table, check_section, commit, hardware, replace_section
from sdseg_monai.errors import report_input_errors

PARTS = ("train", "comparison", "efficiency", "stability", "figures")


def main() -> None:
    """Run the experiments."""
    dry_parser = argparse.ArgumentParser(add_help=False)
    dry_parser.add_argument("--dry-run", action="store_true", help="count the networks, and train nothing")
    is_dry = dry_parser.parse_known_args()[0].dry_run
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, parents=[dry_parser]
    )
    add_study_options(parser, datalist_required=True, data_required=not is_dry)
    parser.add_argument("--parts", nargs="+", choices=PARTS, help="default: the study's, or all of them in this order")
    parser.add_argument("--main", help="experiment of tables 4, 5, figures 2, 3, 5, 6 (default: the study's)")
    parser.add_argument("--without", help="what figure 3 compares with (default: the study's)")
    parser.add_argument(
        "--tflops",
        type=float,
        default=10.0,
        help="what the GPU of --dry-run sustains (default: 10; with the paper's 12 hours on a V100 it was 11)",
    )
    parser.add_argument("--lpips", help="safetensors file of LPIPS' AlexNet; needed for table 5")
    parser.add_argument("--seeds", type=int, default=5, help="of table 5")
    report_input_errors()
    options = parser.parse_args()
    if is_dry:
        with TemporaryDirectory() as folder:
            options.dataset_dir = options.output = Path(folder)
            sys.stdout.write(dry_run.count_all(open_study(options), options.tflops).markdown() + "\n")
        return
    if options.section:
        check_section(options.section, "report")
    study = open_study(options)
    options.parts = options.parts or study.parts or PARTS
    options.main = options.main or study.main
    options.without = options.without or study.without
    budget.check(study)
    _check(options, study)
    if "train" in options.parts:
        failures = train_all(study, options.jobs)
        if failures:
            raise SystemExit("\n".join(failures))
    tables: dict[str, Callable[[], Table]] = {
        "comparison": lambda: add_citations(study, comparison.compare(study)),
        "efficiency": partial(efficiency.measure, study, options.main),
        "stability": partial(stability.measure, study, options.main, options.lpips, options.seeds),
    }
    for name, measure in tables.items():
        if name in options.parts:
            _keep(study, measure())
    if "figures" in options.parts:
        figures.reconstructions(study, options.main, study.folder / "reconstructions.png")
        if options.without:
            figures.convergence(study, [options.main, options.without], study.folder / "convergence.png")
        figures.reverse_process(study, options.main, study.folder / "reverse_process.png")
        figures.image_latents(study, options.main, study.folder / "image_latents.png")
    report = _report(study)
    (study.folder / "report.md").write_text(report + "\n")
    if options.section:
        replace_section(options.section, "report", report)


def _check(options: argparse.Namespace, study: Study) -> None:
    """Raise :class:`SystemExit`, before a long computation, if a later part cannot run."""
    experiments = {"efficiency": [options.main], "stability": [options.main]}
    experiments["figures"] = [options.main, *([options.without] if options.without else [])]
    for part in options.parts:
        for experiment in experiments.get(part, []):
            if experiment not in study.experiments:
                raise SystemExit(f"{part} needs {experiment!r}, which is not among {', '.join(study.experiments)}")
    if "stability" in options.parts and not (options.lpips and Path(options.lpips).is_file()):
        raise SystemExit(f"stability needs the weights of LPIPS, found no file {options.lpips}: name it with --lpips")


def _keep(study: Study, table: Table) -> None:
    about = {"hardware": hardware(), "commit": commit(), "split": study.manifest(), "seed": study.seed()}
    table.write_csv(study.folder, **about)
    note = f"Measured on {about['hardware']}; commit {about['commit']}."
    parts = [table.markdown(), note, cited_table(study, table.name)]
    (study.folder / f"{table.name}.md").write_text("\n\n".join(filter(None, parts)) + "\n")


def _report(study: Study) -> str:
    """Return the tables that were measured so far, each with its hardware and commit."""
    files = [study.folder / f"{name}.md" for name in PARTS]
    parts = [file.read_text().strip() for file in files if file.is_file()]
    about = (
        f"{study.name}. Split and its hash: {study.manifest()}; seed {study.seed()}; "
        f"{_images_seen(study)} images seen by each network."
    )
    return "\n\n".join([about, *parts])


def _images_seen(study: Study) -> int:
    parser = study.parser(next(iter(study.experiments)))
    return parser["epochs"] * (len(study.items("training")) // parser["batch_size"]) * parser["batch_size"]


if __name__ == "__main__":
    main()
