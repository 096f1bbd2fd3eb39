"""How long the rest of a run takes, estimated from what its parts took so far.

Parts differ in kind: an update of the prefix costs other than one of the suffix, an evaluation other than a checkpoint.
Each kind has its own cost, and the machine has a pace that all kinds share: where it gets busy, evaluations that were
last seen on the idle machine are expected to be slower as well.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, median_low

from varl.trainer.objectives.vmr import Stage
from varl.trainer.recipe.config import Recipe

IMAGE_S = 0.05  # to sample, decode and score one image of a tiny model, until this machine has shown what it needs
# Time of an update beside that of sampling and scoring its images in an evaluation, until one of its kind was seen:
# measured with tiny_signs on two cores.
UPDATE_SHARE = {Stage.PREFIX: 1.0, Stage.SUFFIX: 1.9, Stage.FULL: 2.3}
MEASURED_SHARE = 1.3  # of an update that also measures its gradients by scale
RECENT = 8  # parts of a kind that its cost is the median of
GAIN = 0.2  # how far a part moves the pace towards its own: four updates for most of a change
MOST_CHANGE = 1.5  # of the pace, that one part is believed: more is a fault that was waited for, or a swapped page


@dataclass(frozen=True)
class Part:
    """One piece of a run. size: > 0, in images of an evaluation, by which parts of a kind not yet seen are judged."""

    kind: str
    size: float


Timed = tuple[Part, float]  # and the seconds that it took


@dataclass
class TimeLeft:
    """What a run has done, in order, and what comes after its training, such as a demo's last evaluations.

    fixed_s: seconds of what comes later that do not depend on what was measured.
    """

    later: Sequence[Part] = ()
    fixed_s: float = 0.0
    done: list[Timed] = field(default_factory=list)

    def record(self, parts: Sequence[Timed]) -> None:
        """Note parts that were done, in order; what took no time says nothing."""
        self.done += [(part, seconds) for part, seconds in parts if seconds > 0]

    def seconds(self, training: Sequence[Part]) -> float:
        """Expected seconds of what is left: ``training``, and what comes later."""
        return expected_seconds(self.done, [*training, *self.later]) + self.fixed_s


def expected_seconds(done: Sequence[Timed], left: Sequence[Part]) -> float:
    """Seconds that ``left`` will take where ``done``, the newest last, took what it did (each part more than 0)."""
    costs, pace = _costs(done)
    others = fmean(costs.values()) if costs else IMAGE_S  # what a kind costs before one of it was seen
    return pace * sum(part.size * costs.get(part.kind, others) for part in left)


def _costs(done: Sequence[Timed]) -> tuple[dict[str, float], float]:
    """Seconds for each unit of size by kind at pace 1, and the machine's pace now: above 1 where it is slower."""
    found: dict[str, deque[float]] = {}
    pace, typical = 1.0, sum(seconds for _, seconds in done) / max(len(done), 1)
    for part, seconds in done:
        cost, seen = seconds / part.size, found.setdefault(part.kind, deque(maxlen=RECENT))
        if seen:
            own = min(max(cost / median_low(seen), pace / MOST_CHANGE), pace * MOST_CHANGE)
            # What takes a moment, such as a checkpoint, says little of the machine.
            pace += GAIN * min(1.0, seconds / typical) * (own - pace)
        seen.append(cost / pace)
    # The lower of two: the first of a kind pays for what is set up once.
    return {kind: median_low(seen) for kind, seen in found.items()}, pace


def evaluation_part(prompts: int, images_per_prompt: int) -> Part:
    """An evaluation of that many prompts."""
    return Part("evaluation", prompts * images_per_prompt)


def training_parts(recipe: Recipe, first: int = 0) -> list[Part]:
    """All parts of a run's training from update ``first`` on, the last evaluation and checkpoint among them."""
    last = recipe.run.updates
    updates = [part for update in range(first, last) for part in parts_of(recipe, update)]
    return [*updates, *_watched(recipe, last, is_last=True)]


def parts_of(recipe: Recipe, update: int) -> list[Part]:
    """The parts of one update: what looks at the weights before it, itself, and the checkpoint after it."""
    return [*_watched(recipe, update), update_part(recipe, update), *_saved(recipe, update + 1)]


def watched_parts(recipe: Recipe, metrics: Mapping[str, float]) -> list[Timed]:
    """Sample grid and evaluation, as far as the metrics of an update or of a run's end have them."""
    due = _watched(recipe, recipe.run.updates, is_last=True)
    return [(part, metrics[f"timing/{part.kind}"]) for part in due if f"timing/{part.kind}" in metrics]


def timed_parts(recipe: Recipe, update: int, metrics: Mapping[str, float], seconds: float) -> list[Timed]:
    """The parts of an update that took ``seconds`` in all, a checkpoint left out, by its metrics."""
    watched = watched_parts(recipe, metrics)
    return [*watched, (update_part(recipe, update), seconds - sum(took for _, took in watched))]


def recorded_parts(recipe: Recipe, rows: Iterable[Mapping[str, float]], before: int) -> list[Timed]:
    """The parts that earlier attempts at a run left in metrics.jsonl, of the updates below ``before``."""
    kept = [row for row in rows if row["update"] < before and "timing/total" in row]
    return [part for row in kept for part in timed_parts(recipe, int(row["update"]), row, row["timing/total"])]


def in_words(seconds: float) -> str:
    """A span of time as one says it: seconds, minutes or hours."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


def update_part(recipe: Recipe, update: int) -> Part:
    """An update alone, its rollout included."""
    stage, rollout, every = recipe.objective.stage(update), recipe.rollout, recipe.metrics.diagnostics_every
    copies = rollout.continuations if stage is Stage.PREFIX else 1
    size = rollout.prompts_per_update * rollout.group_size * copies * UPDATE_SHARE[stage]
    if every and update % every == 0:
        return Part(f"measured {stage.value}", size * MEASURED_SHARE)
    return Part(stage.value, size)


CHECKPOINT = Part("checkpoint", 1.0)


def _saved(recipe: Recipe, update: int) -> Iterator[Part]:
    if update % recipe.checkpoint.every == 0 or update == recipe.run.updates:
        yield CHECKPOINT


def _watched(recipe: Recipe, update: int, is_last: bool = False) -> Iterator[Part]:
    """Sample grid and evaluation, where they are due; both are at the end of a run."""
    metrics, evaluation = recipe.metrics, recipe.evaluation
    if metrics.samples_every and (is_last or update % metrics.samples_every == 0):
        yield Part("samples", metrics.sample_prompts * metrics.samples_per_prompt)
    if evaluation.every and (is_last or update % evaluation.every == 0):
        yield evaluation_part(evaluation.prompts, evaluation.images_per_prompt)
