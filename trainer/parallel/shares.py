"""Which process makes which passes of an update."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from varl.trainer.step.batch import GroupBatch


@dataclass(frozen=True)
class Pass:
    """Some candidates of one group, which go forward and backward together; ``group`` is its index in the update."""

    group: int
    rows: slice
    tokens: int  # those of the prompt, once, and of the candidates; bytes stand for a prompt's tokens


def passes_of(groups: Sequence[GroupBatch], candidates: int) -> list[Pass]:
    """The passes of an update, in order; ``candidates`` of a group in each, 0: all."""
    return [
        Pass(index, rows, len(group.prompt.encode()) + group.tokens[rows].numel())
        for index, group in enumerate(groups)
        for rows in _parts(len(group.values), candidates or len(group.values))
    ]


def _parts(count: int, size: int) -> list[slice]:
    return [slice(start, start + size) for start in range(0, count, size)]


@dataclass(frozen=True)
class Turn:
    """What a process does in one round: the pass of that index, for its gradient, or only to take part in the round."""

    index: int
    counts: bool


def turns(tokens: Sequence[int], ranks: int) -> list[list[Turn]]:
    """Every round's turns, by rank, for passes of so many tokens.

    Processes gather each layer together, so they make equally many passes, and a round takes as long as its longest:
    passes of like length share one. Where the passes run out, the shortest is made once more and not counted.
    """
    order = sorted(range(len(tokens)), key=lambda index: (-tokens[index], index))
    idle = [Turn(order[-1], counts=False)] * (-len(order) % ranks) if order else []
    dealt = [Turn(index, counts=True) for index in order] + idle
    return [dealt[start : start + ranks] for start in range(0, len(dealt), ranks)]
