"""docs/reliability.md from the figures of benchmarks/torture.py."""

from __future__ import annotations

import textwrap
from typing import Any

from lab.tables import markdown_table
from torment.groups import GROUPS

WIDTH = 120
MOST_FAILURES = 10  # that are listed
INTRODUCTION = """\
`make torture` kills trainings, runs and the label server, changes and forges files of every kind that is read, blocks
the network, and counts what became of it. It wrote this page, figures and words. It takes about 20 minutes on two
cores and is not part of `make test`, which makes a sample of the same tries.

A try has *failed* if the outcome was not the right one, which each section states. *Left behind* are temporary files
that nobody removes, and processes that outlive their parent. Every random choice follows from the seed, so that
`benchmarks/torture.py --seed N --only GROUP --index N` makes a single try again; moments of a kill also depend on the
speed of the machine.
"""
LIMITS = """\
## What this does not show
- Tries are samples: that none failed does not mean that none can. Another seed makes other tries.
- The volumes have some hundred to some ten thousand voxels, and networks of trainings that are killed are tiny.
- A kill ends a process. A machine that loses its power, and a disk that forgets what it said it has written, were not
  tried.
- The label server was tried on this machine alone, without TLS and without users' accounts.
- Masks are equal on one machine and one version of torch. Other processors may round otherwise.
"""


def write_page(figures: dict[str, Any]) -> str:
    """Return the page.

    Args:
        figures: of all groups, as in benchmarks/torment/reliability.json.
    """
    versions = ", ".join(f"{name} {number}" for name, number in figures["versions"].items())
    sample = " **A quick sample: `--quick`.**" if figures["quick"] else ""
    about = (
        f"Commit {figures['commit']}, seed {figures['seed']}, {figures['seconds'] // 60} minutes, {figures['jobs']} "
        f"tries at the same time, {figures['hardware']}. {versions}.{sample}"
    )
    parts = ["# What was tried to break it", INTRODUCTION.strip(), _wrap(about), _overview(figures["groups"])]
    for group in GROUPS:
        parts += [f"## {group.title}", _wrap(group.about), *_section(figures["groups"][group.name])]
    return "\n\n".join([*parts, LIMITS.strip()]) + "\n"


def _overview(groups: dict[str, dict[str, Any]]) -> str:
    rows = []
    for group in GROUPS:
        result = groups[group.name]
        counts = (
            ["skipped", "", "", ""] if "skipped" in result else _counts(result, "tried", "failed", "left", "seconds")
        )
        rows.append([f"[{group.title}](#{_anchor(group.title)})", *counts])
    return markdown_table(["", "tried", "failed", "left behind", "seconds"], rows)


def _section(result: dict[str, Any]) -> list[str]:
    if "skipped" in result:
        return [f"Not tried: {result['skipped']}."]
    rows = []
    for kind, counts in result["kinds"].items():
        outcomes = ", ".join(f"{number} {outcome}" for outcome, number in counts["outcomes"].items())
        rows.append([kind, *_counts(counts, "tried", "failed", "left"), outcomes])
    has_outcomes = any(row[-1] for row in rows)
    head = ["", "tried", "failed", "left behind", "outcomes"]
    table = markdown_table(head if has_outcomes else head[:-1], rows if has_outcomes else [row[:-1] for row in rows])
    failures = [_wrap(f"- {_plain(failure)}", "  ") for failure in result["failures"][:MOST_FAILURES]]
    if len(result["failures"]) > MOST_FAILURES:
        failures.append(f"- and {len(result['failures']) - MOST_FAILURES} more, in benchmarks/torment/reliability.json")
    return [table, *(["Failed or left something behind:", "\n".join(failures)] if failures else [])]


def _plain(failure: dict[str, Any]) -> str:
    """Return what is wrong with a try as one line of Markdown in which nothing has a meaning."""
    reason = failure["failure"] or f"left {len(failure['left'])} behind"
    text = f"try {failure['index']}, {failure['kind']}: {failure['what']}: {reason}"
    characters = (character if character.isascii() and character.isprintable() else "?" for character in text[:300])
    return "".join(f"\\{character}" if character in r"\`*_{}[]<>()#+!|$" else character for character in characters)


def _counts(result: dict[str, Any], *names: str) -> list[str]:
    return [f"{result[name]:,}" for name in names]


def _anchor(title: str) -> str:
    return "".join(character for character in title.lower() if character.isalnum() or character in " -").replace(
        " ", "-"
    )


def _wrap(text: str, indent: str = "") -> str:
    options = {"break_long_words": False, "break_on_hyphens": False}
    return textwrap.fill(text, WIDTH, subsequent_indent=indent, **options)  # type: ignore[arg-type]
