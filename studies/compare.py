"""Two finished runs side by side: what their recipes differ in, and what that changed on the same held-out prompts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from varl.evaluation.results import Evaluation, difference
from varl.studies.report.readings import CONFIG_FILE, EVALUATIONS, Figure, load_evaluation, title
from varl.trainer.recipe.changes import differences, leaves, read_resolved

READING = "after"  # tag of the reading of a run's last weights, and the beginning of those with other samplers
PLACES = ("run.name", "run.dir", "rollout.redis")  # settings that are no part of a comparison
CAVEAT = (
    "± is one standard error over prompts, paired by prompt. Two runs are one seed of each setting: seeds differ by as "
    "much again, so a claim needs several (varl study)."
)


@dataclass(frozen=True)
class Comparison:
    """Two finished runs. settings: what differs, as "key: old -> new"; readings: by sampler, the own one first."""

    first: Path
    second: Path
    settings: Sequence[str]
    readings: Sequence[tuple[str, Sequence[Figure]]]


def compare(first: Path, second: Path) -> str:
    """The comparison as text; raises as ``comparison`` does."""
    found = comparison(first, second)
    lines = [f"{first} -> {second}", "", "settings that differ:"]
    lines += [f"  {change}" for change in found.settings] or ["  none"]
    for name, figures in found.readings:
        lines += ["", name, *_lines(figures)]
    return "\n".join([*lines, "", CAVEAT, ""])


def comparison(first: Path, second: Path) -> Comparison:
    """The second run against the first.

    Raises:
        OSError: a directory holds no finished run.
        ValueError: a file of a run is not what it should be, or the runs were not read on the same prompts and seeds.
    """
    settings = [leaves(read_resolved(run / CONFIG_FILE)) for run in (first, second)]
    changes = [change for change in differences(*settings) if not change.startswith(PLACES)]
    found = [(_name(tag), _figures(before, after)) for tag, before, after in _readings(first, second)]
    if not found:
        raise ValueError(f"{first} and {second} have no reading in common")
    return Comparison(first, second, changes, found)


def _name(tag: str) -> str:
    return tag.removeprefix(f"{READING}-") if tag != READING else "own sampler"


def _readings(first: Path, second: Path) -> Iterator[tuple[str, Evaluation, Evaluation]]:
    """The readings that both runs have, the own sampler's first."""
    tags = {path.stem for path in (first / EVALUATIONS).glob(f"{READING}*.json")}
    common = tags & {path.stem for path in (second / EVALUATIONS).glob(f"{READING}*.json")}
    for tag in sorted(common, key=lambda name: (name != READING, name)):
        yield tag, load_evaluation(first, tag), load_evaluation(second, tag)


def _figures(before: Evaluation, after: Evaluation) -> list[Figure]:
    changes = difference(before, after).changes
    return [
        Figure(title(name), before.estimate(name), after.estimate(name), change) for name, change in changes.items()
    ]


def _lines(figures: Sequence[Figure]) -> list[str]:
    width = max(len(figure.name) for figure in figures)
    return [
        f"  {figure.name:{width}}  {figure.before.value:8.3f} -> {figure.after.value:8.3f}  "
        f"{figure.change.value:+.3f} ± {figure.change.error:.3f}"
        for figure in figures
    ]
