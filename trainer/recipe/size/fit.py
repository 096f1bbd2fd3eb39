"""Whether worker and trainer fit a device, and which settings would make them fit where they do not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations
from typing import Any

from varl.trainer.recipe.config import Recipe
from varl.trainer.recipe.sections import LoraSettings
from varl.trainer.recipe.size.passes import SAMPLE_BATCH
from varl.trainer.recipe.size.ranks import memory_of_trainer, trainer_name
from varl.trainer.recipe.size.size import rows_of, worker_memory
from varl.trainer.recipe.size.units import size_of

RANK = 16  # of the adapters that are advised
MOST_RANKS = 64
USABLE = 0.9  # of a device's memory; the rest is the driver's, the allocator's and what the backward pass works with


class DeviceMemoryError(ValueError):
    """A recipe's worker or trainer does not fit the device; the message names settings with which it would."""


Total = Callable[[Recipe], int]
Change = Callable[[Recipe, Total, float], tuple[Recipe, str] | None]


def check_fits(recipe: Recipe, prompt: str, device_bytes: int, ranks: int = 1) -> None:
    """Compare the worker and the trainer, each alone on the device, with its memory.

    ranks: over how many such devices torchrun spreads the trainer.

    Raises:
        DeviceMemoryError: one of them needs more than USABLE of it.
    """
    room = USABLE * device_bytes
    trainer: Total = lambda changed: sum(memory_of_trainer(changed, prompt, ranks).values())  # noqa: E731
    worker: Total = lambda changed: sum(worker_memory(changed, prompt).values())  # noqa: E731
    changes = [_fewer_rows, _no_average, _recompute, _adapters, _bfloat16]
    problems = [
        *_problem(trainer_name(ranks), recipe, trainer, room, changes, _more_ranks(recipe, prompt, room, ranks)),
        *_problem("a rollout worker", recipe, worker, room, [_smaller_group, _bfloat16], _batch(recipe, prompt, room)),
    ]
    if problems:
        raise DeviceMemoryError("\n".join(problems))


def _problem(
    who: str, recipe: Recipe, total: Total, room: float, changes: Sequence[Change], more: Sequence[str] = ()
) -> Iterator[str]:
    needed = total(recipe)
    if needed <= room:
        return
    found = [*more, *_cures(recipe, total, room, changes)]
    advice = f"set {'; or '.join(found)}" if found else "no setting makes it fit: take a smaller model or image"
    yield f"{who} needs {size_of(needed)}, and of this device's memory {size_of(room)} can be used: {advice}"


def _cures(recipe: Recipe, total: Total, room: float, changes: Sequence[Change]) -> list[str]:
    """The smallest sets of changes with which the recipe fits."""
    for size in range(1, len(changes) + 1):
        found = [cure for chosen in combinations(changes, size) if (cure := _cure(recipe, total, room, chosen))]
        if found:
            return found
    return []


def _cure(recipe: Recipe, total: Total, room: float, chosen: Sequence[Change]) -> str | None:
    """These changes, made one after another from the last, which leaves the first to find its number."""
    named = list[str]()
    for change in reversed(chosen):
        made = change(recipe, total, room)
        if made is None:
            return None
        recipe, name = made
        named.insert(0, name)
    needed = total(recipe)
    return f"{' and '.join(named)} ({size_of(needed)})" if needed <= room else None


def _fewer_rows(recipe: Recipe, total: Total, room: float) -> tuple[Recipe, str] | None:
    def with_rows(rows: int) -> Recipe:
        return _changed(recipe, "optimizer", candidates_per_pass=rows)

    rows = rows_of(recipe)
    return None if rows == 1 else _largest("optimizer.candidates_per_pass", with_rows, 1, rows - 1, total, room)


def _smaller_group(recipe: Recipe, total: Total, room: float) -> tuple[Recipe, str] | None:
    def with_group(group: int) -> Recipe:
        return _changed(recipe, "rollout", group_size=group)

    group = recipe.rollout.group_size
    return None if group == 2 else _largest("rollout.group_size", with_group, 2, group - 1, total, room)


def _no_average(recipe: Recipe, total: Total, room: float) -> tuple[Recipe, str] | None:
    if not recipe.optimizer.ema_decay:
        return None
    return _changed(recipe, "optimizer", ema_decay=0.0), "optimizer.ema_decay = 0"


def _recompute(recipe: Recipe, total: Total, room: float) -> tuple[Recipe, str] | None:
    if recipe.optimizer.recompute == "always":
        return None
    return _changed(recipe, "optimizer", recompute="always"), 'optimizer.recompute = "always"'


def _adapters(recipe: Recipe, total: Total, room: float) -> tuple[Recipe, str] | None:
    if recipe.model.trainable == "gains" or recipe.model.lora.rank or recipe.objective.kl_anchor != "initial":
        return None
    return _changed(recipe, "model", lora=LoraSettings(rank=RANK)), f"model.lora.rank = {RANK}"


def _bfloat16(recipe: Recipe, total: Total, room: float) -> tuple[Recipe, str] | None:
    if recipe.model.dtype == "bfloat16":
        return None
    return _changed(recipe, "model", dtype="bfloat16"), 'model.dtype = "bfloat16"'


def _batch(recipe: Recipe, prompt: str, room: float) -> list[str]:
    """The worker's own flag, where it would do."""

    def total(batch: int) -> int:
        return sum(worker_memory(recipe, prompt, batch).values())

    batch = _last(lambda size: total(size) <= room, 1, SAMPLE_BATCH - 1)
    return [] if batch is None else [f"the rollout worker's --sample-batch {batch} ({size_of(total(batch))})"]


def _more_ranks(recipe: Recipe, prompt: str, room: float, ranks: int) -> list[str]:
    """The least power of two of ranks, up to MOST_RANKS, that would do where there are fewer now."""
    counts = (2**power for power in range(1, MOST_RANKS.bit_length()))
    for count in (count for count in counts if count > ranks):
        needed = sum(memory_of_trainer(recipe, prompt, count).values())
        if needed <= room:
            return [f"the number of torchrun's ranks to {count} ({size_of(needed)} each)"]
    return []


def _largest(
    name: str, make: Callable[[int], Recipe], low: int, high: int, total: Total, room: float
) -> tuple[Recipe, str]:
    """The largest number that fits, or the smallest one that there is."""
    number = _last(lambda value: total(make(value)) <= room, low, high) or low
    return make(number), f"{name} = {number}"


def _last(fits: Callable[[int], bool], low: int, high: int) -> int | None:
    """The largest number for which ``fits`` is true, by halving; None where not even ``low`` does."""
    if not fits(low):
        return None
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def _changed(recipe: Recipe, section: str, **values: Any) -> Recipe:  # noqa: ANN401
    settings = getattr(recipe, section).model_copy(update=values)
    return recipe.model_copy(update={section: settings})
