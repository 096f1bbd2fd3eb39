"""What a scored image costs each arm, measured side by side, for machines whose speed changes from run to run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import islice
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from pydantic import BaseModel, ConfigDict

from varl.launch.machine import Machine, describe_machine
from varl.studies.stages import Say
from varl.studies.study.plan import Job, Study, arm_recipe, images_by_update
from varl.studies.study.results import RunResult, training_seconds
from varl.trainer.disk.atomic import write_durably
from varl.trainer.disk.metrics_log import METRICS_FILE, read_rows
from varl.trainer.loop import train
from varl.trainer.recipe.config import Recipe
from varl.trainer.setup import load_policies
from varl.trajectories.queue import RunQueue

PACE_FILE = "pace.json"
_FIRST, _TIMED = 2, 4  # updates: those in which services warm up, and those after it, a round of every alternation
Queue = Callable[[Recipe], AbstractContextManager[RunQueue]]


class Pace(BaseModel):
    """Seconds of training an image, by arm, one figure a round; every round timed all arms, one after the other."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seconds_an_image: dict[str, tuple[float, ...]]
    machine: Machine

    def retimed(self, runs: Sequence[RunResult]) -> list[RunResult]:
        """The runs as if all had trained at this pace, or as they are where it is not known of every arm."""
        paces = {arm: median(rounds) for arm, rounds in self.seconds_an_image.items()}
        known = all(run.arm in paces for run in runs)
        return [_at_pace(run, paces[run.arm]) for run in runs] if known else list(runs)


def load_pace(folder: Path) -> Pace | None:
    """What was measured of a study, or None; raises ValueError where the file is none."""
    path = folder / PACE_FILE
    return Pace.model_validate_json(path.read_bytes()) if path.exists() else None


def measure_pace(study: Study, folder: Path, arms: Sequence[str], rounds: int, queue: Queue, say: Say) -> None:
    """Train each arm for a few updates, in turns, and keep after every round what an image cost.

    Raises as ``train`` does.
    """
    found: Mapping[str, list[float]] = {arm: [] for arm in arms}
    for number in range(rounds):
        for arm in arms:
            say(f"\nround {number + 1} of {rounds}: {arm}")
            with TemporaryDirectory(prefix="varl-pace-") as directory:
                found[arm].append(_timed(_short(study, arm, Path(directory)), queue))
            say(f"{arm}: {found[arm][-1]:.3f} s an image")
        seconds = {arm: tuple(values) for arm, values in found.items()}
        pace = Pace(seconds_an_image=seconds, machine=describe_machine("cpu"))
        write_durably(folder / PACE_FILE, pace.model_dump_json(indent=1) + "\n")


def _short(study: Study, arm: str, directory: Path) -> Recipe:
    """The arm's recipe with a few updates, and with nothing but training in them."""
    recipe = arm_recipe(study, Job(arm, 1e-5, study.seeds[0], tuning=False), directory)
    run = recipe.run.model_copy(update={"updates": _FIRST + _TIMED})
    metrics = recipe.metrics.model_copy(update={"samples_every": 0, "diagnostics_every": 0, "wandb": ""})
    return recipe.model_copy(update={"run": run, "metrics": metrics})


def _timed(recipe: Recipe, queue: Queue) -> float:
    trained, reference = load_policies(recipe)
    with queue(recipe) as opened:
        directory = train(recipe, trained, reference, opened, resume=False)
    rows = read_rows(directory / METRICS_FILE)[_FIRST : _FIRST + _TIMED]
    scored = list(islice(images_by_update(recipe), _FIRST + _TIMED))
    return sum(map(training_seconds, rows)) / (scored[-1] - scored[_FIRST - 1])


def _at_pace(run: RunResult, pace: float) -> RunResult:
    curve = tuple(point.model_copy(update={"seconds": pace * point.images}) for point in run.curve)
    return run.model_copy(update={"seconds": pace * run.images, "curve": curve})
