"""Tries and groups of them: how they are numbered, run side by side, and counted."""

from __future__ import annotations

import random
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from lab.tables import ROOT

LONGEST_FAILURE = 2000  # characters


@dataclass(frozen=True)
class Try:
    """One try.

    Attributes:
        index: of the try in its group, from 0 on.
        kind: what it was tried on; tries are counted by it.
        what: what was done.
        outcome: what became of it, for counts: ``read`` and ``refused``, for example.
        failure: what was wrong; empty where the outcome is right.
        left: files and processes that were left behind.
    """

    index: int
    kind: str
    what: str
    outcome: str = ""
    failure: str = ""
    left: tuple[str, ...] = ()

    @property
    def is_right(self) -> bool:
        """Whether nothing was wrong and nothing was left behind."""
        return not (self.failure or self.left)


@dataclass(frozen=True)
class Setting:
    """Where and how the tries of a group run.

    Attributes:
        folder: of the group. A try has a folder of its own in it, which stays if it fails.
        seed: of all random choices.
        jobs: tries at the same time.
    """

    folder: Path
    seed: int
    jobs: int = 1

    @property
    def common(self) -> Path:
        """The folder of what :attr:`Group.prepare` makes for all tries, which only read it."""
        return self.folder / "common"

    def place(self, index: int) -> Path:
        """Return the folder of a try, new and empty."""
        place = self.folder / f"{index:04}"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        return place

    def random(self, index: int) -> random.Random:
        """Return the random generator of a try, a function of the seed, the group's name and the index alone."""
        return random.Random(f"{self.seed}/{self.folder.name}/{index}")


Attempt = Callable[[Setting, int], Try]


@dataclass(frozen=True)
class Group:
    """Tries of one subject.

    Attributes:
        name: of the group, for ``--only`` and its folder.
        title: heading on the page.
        about: what is tried and what is right, on the page; ends with a full stop.
        number: of tries.
        quick: of tries in a quick run.
        attempt: makes one try.
        prepare: makes what all tries need.
        obstacle: returns why the group cannot run here; empty where it can.
        run_all: makes all tries, in place of ``attempt``, where they need each other.
    """

    name: str
    title: str
    about: str
    number: int
    quick: int
    attempt: Attempt
    prepare: Callable[[Setting], None] = lambda setting: setting.common.mkdir(parents=True, exist_ok=True)
    obstacle: Callable[[], str] = lambda: ""
    run_all: Callable[[Setting, Sequence[int]], Iterator[Try]] | None = None

    def indices(self, is_quick: bool) -> Sequence[int]:
        """Return the indices of the tries; those of a quick run are spread evenly over all."""
        if not is_quick:
            return range(self.number)
        return sorted({position * self.number // self.quick for position in range(self.quick)})

    def run(self, setting: Setting, indices: Sequence[int]) -> Iterator[Try]:
        """Make the tries, several at the same time, and yield each when it has ended; folders of right ones go."""
        self.prepare(setting)
        if self.run_all is not None:
            yield from self.run_all(setting, indices)
            return
        if setting.jobs == 1:
            for index in indices:
                yield _attempt(self.attempt, setting, index)
            return
        with ProcessPoolExecutor(setting.jobs, get_context("fork")) as pool:
            futures = [pool.submit(_attempt, self.attempt, setting, index) for index in indices]
            for future in as_completed(futures):
                yield future.result()


def _attempt(attempt: Attempt, setting: Setting, index: int) -> Try:
    result = attempt(setting, index)
    if result.is_right:
        shutil.rmtree(setting.folder / f"{index:04}", ignore_errors=True)
    return result


def run_group(
    group: Group, setting: Setting, is_quick: bool, index: int | None, report: Callable[[Try], None]
) -> dict[str, Any]:
    """Run a group and return its figures for JSON: counts, the failures and the time.

    Args:
        group: the group.
        setting: of its tries.
        is_quick: whether only :attr:`Group.quick` of them are made.
        index: of the only try; None for all.
        report: is called with each try that is not right.
    """
    obstacle = group.obstacle()
    if obstacle:
        return {"skipped": obstacle}
    start = time.monotonic()
    tries = []
    for result in group.run(setting, group.indices(is_quick) if index is None else [index]):
        tries.append(result)
        if not result.is_right:
            report(result)
    wrong_tries = sorted((result for result in tries if not result.is_right), key=lambda result: result.index)
    return {
        "tried": len(tries),
        "failed": sum(bool(result.failure) for result in tries),
        "left": sum(len(result.left) for result in tries),
        "seconds": round(time.monotonic() - start),
        "kinds": {kind: _counts([result for result in tries if result.kind == kind]) for kind in _kinds(tries)},
        "failures": [
            {
                "index": result.index,
                "kind": result.kind,
                "what": result.what,
                "failure": _without_places(result.failure, setting)[:LONGEST_FAILURE],
                "left": [_without_places(left, setting) for left in result.left],
            }
            for result in wrong_tries
        ],
    }


def _without_places(text: str, setting: Setting) -> str:
    """Return a text without the paths of this machine."""
    return text.replace(f"{setting.folder}/", "").replace(f"{ROOT}/", "")


def _kinds(tries: Sequence[Try]) -> list[str]:
    return sorted({result.kind for result in tries})


def _counts(tries: Sequence[Try]) -> dict[str, Any]:
    outcomes = Counter(result.outcome for result in tries if result.outcome)
    return {
        "tried": len(tries),
        "failed": sum(bool(result.failure) for result in tries),
        "left": sum(len(result.left) for result in tries),
        "outcomes": dict(sorted(outcomes.items())),
    }
