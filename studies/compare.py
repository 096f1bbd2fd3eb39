"""Two finished runs side by side: what their recipes differ in, and what that changed on the same held-out prompts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from varl.evaluation.results import Evaluation, difference
from varl.studies.report.report import CONFIG_FILE, EVALUATIONS, load_evaluation, title
from varl.trainer.recipe.changes import differences, leaves, read_resolved

READING = "after"  # tag of the reading of a run's last weights, and the beginning of those with other samplers
PLACES = ("run.name", "run.dir", "rollout.redis")  # settings that are no part of a comparison
CAVEAT = (
    "± is one standard error over prompts, paired by prompt. Two runs are one seed of each setting: seeds differ by as "
    "much again, so a claim needs several (varl study)."
)


def compare(first: Path, second: Path) -> str:
    """The comparison as text.

    Raises:
        OSError: a directory holds no finished run.
        ValueError: a file of a run is not what it should be, or the runs were not read on the same prompts and seeds.
    """
    settings = [leaves(read_resolved(run / CONFIG_FILE)) for run in (first, second)]
    changes = [change for change in differences(*settings) if not change.startswith(PLACES)]
    found = list(_readings(first, second))
    if not found:
        raise ValueError(f"{first} and {second} have no reading in common")
    lines = [f"{first} -> {second}", "", "settings that differ:"]
    lines += [f"  {change}" for change in changes] or ["  none"]
    for tag, before, after in found:
        lines += ["", tag.removeprefix(f"{READING}-") if tag != READING else "own sampler", *_figures(before, after)]
    return "\n".join([*lines, "", CAVEAT, ""])


def _readings(first: Path, second: Path) -> Iterator[tuple[str, Evaluation, Evaluation]]:
    """The readings that both runs have, the own sampler's first."""
    tags = {path.stem for path in (first / EVALUATIONS).glob(f"{READING}*.json")}
    common = tags & {path.stem for path in (second / EVALUATIONS).glob(f"{READING}*.json")}
    for tag in sorted(common, key=lambda name: (name != READING, name)):
        yield tag, load_evaluation(first, tag), load_evaluation(second, tag)


def _figures(before: Evaluation, after: Evaluation) -> list[str]:
    changes = difference(before, after).changes
    rows = [
        (title(name), before.estimate(name).value, after.estimate(name).value, change)
        for name, change in changes.items()
    ]
    width = max(len(name) for name, *_ in rows)
    return [
        f"  {name:{width}}  {old:8.3f} -> {new:8.3f}  {change.value:+.3f} ± {change.error:.3f}"
        for name, old, new, change in rows
    ]
