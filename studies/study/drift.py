"""Table of what each arm changed that the reward does not measure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import hypot
from statistics import fmean

from varl.evaluation.measures.appearance import BY_NAME, COLOUR
from varl.studies.study.results import RunResult, runs_by_arm
from varl.studies.study.tables import table

DRIFT, ALARMS = "eval/drift/", "eval/drift_alarms"
SHIFT = DRIFT + "colour_shift"
LAB = [f"eval/{BY_NAME}{axis}" for axis in COLOUR]
DRIFT_NOTE = (
    "Changes against the base on the same prompts and seeds, at the last evaluation while training, mean over seeds. "
    "Colour shift is of the mean colour of all images, colour distance the mean of each prompt's own, in CIELAB units; "
    "at temperature 1 the distance is large without training as well. Alarms: figures beyond their limits, a run; – "
    "for runs older than the limit on the shift."
)


def drift_table(runs: Sequence[RunResult]) -> str:
    """A row of changes for each arm; empty where no run measured them."""
    last = {arm: [found for run in own if (found := _last(run))] for arm, own in runs_by_arm(runs).items()}
    names = list(dict.fromkeys(name for found in last.values() for one in found for name in one if name != ALARMS))
    if not names:
        return ""
    head = ["arm", *(name.removeprefix(DRIFT).replace("_", " ") for name in names), "alarms"]
    rows = [
        [arm, *(_mean(found, name, "+.3f") for name in names), _mean(found, ALARMS, ".1f")]
        for arm, found in last.items()
    ]
    return table(head, rows)


def _last(run: RunResult) -> dict[str, float]:
    """The drift of a run's last evaluation."""
    points = [point.metrics for point in run.curve if any(name.startswith(DRIFT) for name in point.metrics)]
    if not points:
        return {}
    drift = {name: value for name, value in points[-1].items() if name.startswith((DRIFT, ALARMS))}
    return drift if SHIFT in drift else _with_shift(drift, points[0], points[-1])


def _with_shift(drift: Mapping[str, float], base: Mapping[str, float], now: Mapping[str, float]) -> dict[str, float]:
    """An older run's, with the shift of its mean colour, and without its alarms, which had another limit."""
    older = {name: value for name, value in drift.items() if name != ALARMS}
    known = all(axis in metrics for axis in LAB for metrics in (base, now))
    return older | ({SHIFT: hypot(*(now[axis] - base[axis] for axis in LAB))} if known else {})


def _mean(found: Sequence[dict[str, float]], name: str, form: str) -> str:
    values = [one[name] for one in found if name in one]
    return f"{fmean(values):{form}}" if values else "–"
