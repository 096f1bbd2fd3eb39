"""Passes that a group takes in the rollout worker, and a candidate in the trainer.

The loops of services/rollout/generation and of varl.policy.nextflow's ``draw`` and ``distribution`` are counted instead
of run. tests/deploy/test_scale_flops.py holds the counts to the real ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks.scale.flops import Pass
from varl.v1 import rollout_pb2

FULL, PREFIX, SUFFIX = rollout_pb2.STAGE_FULL, rollout_pb2.STAGE_PREFIX, rollout_pb2.STAGE_SUFFIX


@dataclass(frozen=True)
class Task:
    """One group. split: scales of the prefix (0 in the full stage); group: candidates; copies: images a candidate."""

    stage: rollout_pb2.Stage
    split: int
    group: int
    copies: int

    @property
    def images(self) -> int:
        """Images that are decoded and scored."""
        return self.group * self.copies


def drawing(cells: Sequence[int], task: Task, batch: int, texts: Sequence[int]) -> list[Pass]:
    """Passes of a group with ``batch`` sequences drawn together.

    ``texts``: tokens of the text of each branch (two under guidance).
    """
    return [run for text in texts for run in (Pass(1, text, 0, 0, visual=False), *_branch(cells, task, batch, text))]


def _branch(cells: Sequence[int], task: Task, batch: int, text: int) -> Iterator[Pass]:
    last = len(cells)
    if task.stage == SUFFIX:
        yield from _draw(cells, 0, task.split, 1, 1, text)
    for rows in _chunks(task.group, max(1, batch // task.copies)):
        if task.stage == FULL:
            yield from _draw(cells, 0, last, 1, rows, text)
        elif task.stage == PREFIX:
            yield from _draw(cells, 0, task.split, 1, rows, text)
            yield from _draw(cells, task.split, last, rows, rows * task.copies, text)
        else:
            yield from _draw(cells, task.split, last, 1, rows, text)


def _draw(cells: Sequence[int], first: int, last: int, before: int, rows: int, text: int) -> Iterator[Pass]:
    """Passes of scales ``first`` to ``last`` - 1.

    The input of scale ``first`` is shared by the ``before`` sequences; the end of the text stands for scale 0.
    """
    for scale in range(first, last):
        width = before if scale == first else rows
        yield Pass(width, cells[scale] if scale else 0, text + sum(cells[1:scale]), cells[scale])


def _chunks(count: int, size: int) -> Iterator[int]:
    return (min(size, count - start) for start in range(0, count, size))


def teaching(cells: Sequence[int], task: Task, text: int) -> list[Pass]:
    """Forward passes of one candidate in the trainer, a candidate at a time.

    Text, all scales it needs, head on those that are trained.
    """
    first = task.split if task.stage == SUFFIX else 0
    whole = cells[: task.split] if task.stage == PREFIX else cells
    return [
        Pass(1, text, 0, 0, visual=False),
        Pass(1, sum(whole[1:]), text, sum(whole[first:]), scales=tuple(whole[1:])),
    ]
