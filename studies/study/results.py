"""What one run of a study found, in the file by which a study goes on where it was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from varl.evaluation.results import Evaluation
from varl.launch.machine import Machine, describe_machine
from varl.studies.study.plan import Job, images_by_update
from varl.trainer.disk.atomic import write_durably
from varl.trainer.disk.metrics_log import METRICS_FILE, read_rows
from varl.trainer.recipe.config import Recipe

RESULT_FILE = "result.json"
ASIDE = ("timing/evaluation", "timing/samples")  # of an update's time, what is no training
# Metrics of every update that a result keeps: these, and those by scale whose names begin like this.
CURVE = ("reward/total", "kl", "grad_norm", "grad_signal", "grad_noise", "prefix_share")
SHARES = {"grad_norm/scale_": "gradient norm", "kl/scale_": "KL"}
COSINE = "grad_cosine/scale_"


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Point(_Record):
    """Where a run stood before one update: images scored and seconds trained so far, and what was measured then."""

    update: int
    images: int
    seconds: float
    metrics: dict[str, float]


class RunResult(_Record):
    """One finished run. figures: by sampler, then by measure, of the reading at the end."""

    arm: str
    seed: int
    learning_rate: float
    tuning: bool
    images: int
    seconds: float  # of training, without evaluations
    figures: dict[str, dict[str, float]]
    curve: tuple[Point, ...]
    machine: Machine | None = None  # None: kept before results had it
    settings: dict[str, Any] | None = None  # that decided its figures, by dotted name; None: the same

    def figure(self, measure: str) -> float:
        """The end's figure by the recipe's own sampler; raises KeyError."""
        return next(iter(self.figures.values()))[measure]


def curve_of(recipe: Recipe) -> list[Point]:
    """The run's metrics by images and seconds; a run that was resumed has the time of its lost updates left out."""
    rows = read_rows(recipe.run.dir / recipe.run.name / METRICS_FILE)
    scored = [0, *islice(images_by_update(recipe), recipe.run.updates)]
    points, seconds = list[Point](), 0.0
    for row in rows:
        kept = {name: value for name, value in row.items() if _is_kept(name) and isinstance(value, float)}
        points.append(Point(update=row["update"], images=scored[row["update"]], seconds=seconds, metrics=kept))
        seconds += training_seconds(row)
    return points


def training_seconds(row: Mapping[str, Any]) -> float:
    """Of an update, from its metrics."""
    return float(row.get("timing/total", 0.0) - sum(row.get(name, 0.0) for name in ASIDE))


def result_of(job: Job, recipe: Recipe, readings: dict[str, Evaluation], settings: Mapping[str, Any]) -> RunResult:
    """The result of a run whose last weights were read with these samplers, the recipe's own first."""
    curve = curve_of(recipe)
    return RunResult(
        arm=job.arm,
        seed=job.seed,
        learning_rate=job.learning_rate,
        tuning=job.tuning,
        images=curve[-1].images,
        seconds=curve[-1].seconds,
        figures={name: figures_of(evaluation) for name, evaluation in readings.items()},
        curve=tuple(curve),
        machine=describe_machine(recipe.run.device),
        settings=dict(settings),
    )


def figures_of(evaluation: Evaluation) -> dict[str, float]:
    """Every measure's value."""
    return {name: found.value for name, found in evaluation.estimates().items()}


def at_seconds(result: RunResult, measure: str, seconds: float) -> float | None:
    """The measure at a time of training, between the evaluations around it; None where there are none around it."""
    ends = (result.seconds, result.figure(measure))
    points = [
        *(
            (point.seconds, point.metrics[f"eval/{measure}"])
            for point in result.curve
            if f"eval/{measure}" in point.metrics
        ),
        ends,
    ]
    for (before, low), (after, high) in pairwise(points):
        if before <= seconds <= after:
            share = (seconds - before) / (after - before) if after > before else 1.0
            return low + share * (high - low)
    return None


def save(result: RunResult, directory: Path) -> None:
    """Leave the result in its run directory, whole or not at all."""
    write_durably(directory / RESULT_FILE, result.model_dump_json(indent=1))


def load(directory: Path) -> RunResult | None:
    """The result that a finished run left, or None; raises ValueError where the file is no result."""
    path = directory / RESULT_FILE
    return RunResult.model_validate_json(path.read_bytes()) if path.exists() else None


def row_of(result: RunResult) -> dict[str, Any]:
    """The run as study.json has it: figures of the own sampler by their names, those of others with _SAMPLER behind."""
    own, *others = result.figures.items()
    row: dict[str, Any] = result.model_dump(include={"arm", "seed", "learning_rate", "images", "seconds"})
    row |= {"machine": result.machine.cpu if result.machine else None}
    row |= {name.replace("/", "_"): value for name, value in own[1].items()}
    for sampler, figures in others:
        row |= {f"{name.replace('/', '_')}_{sampler}": value for name, value in figures.items()}
    return row


def by_arm(results: Sequence[RunResult], measure: str, sampler: str | None = None) -> dict[str, dict[int, float]]:
    """Arm -> seed -> figure at the end, by the own sampler or another one."""
    table = dict[str, dict[int, float]]()
    for result in results:
        figures = result.figures.get(sampler, {}) if sampler else next(iter(result.figures.values()))
        if measure in figures:
            table.setdefault(result.arm, {})[result.seed] = figures[measure]
    return table


def runs_by_arm(runs: Sequence[RunResult]) -> dict[str, list[RunResult]]:
    """Arm -> its runs, in the order given."""
    return {arm: [run for run in runs if run.arm == arm] for arm in dict.fromkeys(run.arm for run in runs)}


def _is_kept(name: str) -> bool:
    return name in CURVE or name.startswith(("eval/", COSINE, *SHARES))
