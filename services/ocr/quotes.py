"""Which quotation marks of a prompt belong together, in any script.

A mark alone rarely tells what it is: ' opens, closes or is an apostrophe, “ opens in English and closes in German. So
every mark has a cost for each part that it can play where it stands, and the prompt is read in the cheapest way as a
whole. What is left without a partner quotes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from varl.services.ocr.quote_marks import (
    BRACKETS,
    DOUBLE,
    GUILLEMETS,
    GUILLEMETS_CLOSING,
    SINGLE,
    UNUSUAL,
    WITHIN,
    Mark,
    brackets_in,
    clean,
    marks_in,
    partners,
)

Pair = tuple[Mark, Mark]
_WRITTEN_SPACE = re.compile(r"(?<!\\)\\+[nrt]")
_MOST_MARKS = 512  # of a kind: no prompt for a picture has as many, and reading them takes time


def quoted_spans(prompt: str) -> tuple[str, ...]:
    """The text of every outermost pair of quotation marks, left to right, without the marks; none of it is blank.

    Marks behind a backslash and as HTML entities are marks, and a line break written as backslash and n is white space.
    Quotes within quotes stay part of the text.
    """
    text = clean(prompt)
    pairs = _bracketed(text)
    for kind in (DOUBLE, SINGLE):
        pairs = _outermost(pairs + _cheapest(_facing(_outside(marks_in(text, kind), pairs))))
    inner = (_WRITTEN_SPACE.sub(" ", text[left.end : right.start]).strip() for left, right in pairs)
    return tuple(span for span in inner if span)


def _bracketed(text: str) -> list[Pair]:
    """Pairs of marks with a direction of their own, 「」 and their like, by depth."""
    open_marks: list[Mark] = []
    pairs: list[Pair] = []
    for mark in brackets_in(text):
        if mark.char in BRACKETS:
            open_marks.append(mark)
            continue
        depth = next((i for i in reversed(range(len(open_marks))) if BRACKETS[open_marks[i].char] == mark.char), None)
        if depth is not None:
            pairs.append((open_marks[depth], mark))
            del open_marks[depth:]
    return _outermost(pairs)


def _outside(marks: Iterable[Mark], pairs: Sequence[Pair]) -> list[Mark]:
    """The marks that stand within none of the pairs, which are in order and apart."""
    found, left = [], list(reversed(pairs))
    for mark in marks:
        while left and left[-1][1].end <= mark.start:
            left.pop()
        if not left or mark.end <= left[-1][0].start:
            found.append(mark)
    return found


def _outermost(pairs: Sequence[Pair]) -> list[Pair]:
    """Of pairs that do not cross, those that lie in no other, in order."""
    found: list[Pair] = []
    for pair in sorted(pairs, key=lambda pair: pair[0].start):
        if not found or found[-1][1].end <= pair[0].start:
            found.append(pair)
    return found


def _facing(marks: Sequence[Mark]) -> list[Mark]:
    """The marks, with what is usual turned round where all guillemets of the prompt face inwards, »so«.

    Else many such pairs would together cost more than the two marks that stay alone if what is between them is quoted.
    """
    guillemets = [mark for mark in marks if mark.char in GUILLEMETS]
    inwards = all(mark.char in GUILLEMETS_CLOSING[i % 2] for i, mark in enumerate(guillemets))
    if not guillemets or len(guillemets) % 2 or not inwards:
        return list(marks)
    return [_turned(mark) if mark.char in GUILLEMETS else mark for mark in marks]


def _turned(mark: Mark) -> Mark:
    sign = -1 if mark.char in GUILLEMETS_CLOSING[0] else 1
    opens, closes = (
        None if cost is None else cost + change * UNUSUAL for cost, change in ((mark.opens, sign), (mark.closes, -sign))
    )
    return replace(mark, opens=opens, closes=closes)


@dataclass(frozen=True)
class _Reading:
    """A way to read the marks so far; of two the one with the lower cost is better, then the one that quotes less."""

    cost: float
    quoted: int  # characters
    pairs: tuple[Pair, _Pairs] | None  # the last pair and those before it

    @property
    def rank(self) -> tuple[float, int]:
        return round(self.cost, 9), self.quoted


_Pairs = tuple[Pair, "_Pairs"] | None


def _cheapest(marks: Sequence[Mark]) -> list[Pair]:
    """Pairs one after the other, of least cost over all marks; linear in their number, and none of more than 512.

    ``waiting`` holds for each kind of opening mark the best reading in which one is open, as if all marks since stood
    alone.
    """
    if len(marks) > _MOST_MARKS:
        return []
    best = _Reading(0.0, 0, None)
    waiting: dict[str, tuple[_Reading, Mark]] = {}
    for mark in marks:
        after = _Reading(best.cost + mark.alone, best.quoted, best.pairs)
        if mark.closes is not None:
            for char, (reading, opening) in waiting.items():
                if mark.char in partners(char):
                    quoted = reading.quoted + mark.start - opening.end
                    closed = _Reading(reading.cost + mark.closes, quoted, ((opening, mark), reading.pairs))
                    after = min(after, closed, key=lambda one: one.rank)
        waiting = {
            char: (_Reading(one.cost + WITHIN * mark.alone, one.quoted, one.pairs), opening)
            for char, (one, opening) in waiting.items()
        }
        if mark.opens is not None:
            opened = _Reading(best.cost + mark.opens, best.quoted, best.pairs)
            known = waiting.get(mark.char)
            if known is None or _better(opened, mark, *known):
                waiting[mark.char] = (opened, mark)
        best = after
    return _in_order(best.pairs)


def _better(one: _Reading, mark: Mark, other: _Reading, opening: Mark) -> bool:
    """Whether opening at the later ``mark`` is no dearer, or as dear and quotes less."""
    return (round(one.cost, 9), one.quoted - mark.end) <= (round(other.cost, 9), other.quoted - opening.end)


def _in_order(pairs: _Pairs) -> list[Pair]:
    found = []
    while pairs is not None:
        found.append(pairs[0])
        pairs = pairs[1]
    return found[::-1]
