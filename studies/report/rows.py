"""The rows of pictures in a report: the same held-out prompt before and after."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from varl.evaluation.results import Evaluation, Picture, PromptResult, ReadWord


@dataclass(frozen=True)
class Side:
    """One image of a held-out prompt as the page shows it."""

    png: str  # base64
    width: int
    height: int
    reward: float
    words: tuple[tuple[ReadWord, bool], ...]  # and whether it is a target word


@dataclass(frozen=True)
class Pair:
    """One held-out prompt before and after; a side without an image is one whose group failed."""

    prompt: str
    target_words: tuple[str, ...]
    before: Side | None
    after: Side | None

    @property
    def change(self) -> float:
        """The reward of the image shown after less that before; 0 where either is missing."""
        return self.after.reward - self.before.reward if self.before and self.after else 0.0


def pairs(before: Evaluation, after: Evaluation) -> list[Pair]:
    """The prompts of which either side kept a picture, in order."""
    old, new = ({result.index: result for result in side.prompts if result.picture} for side in (before, after))
    return [_pair(old.get(index), new.get(index)) for index in sorted(old.keys() | new.keys())]


def _pair(old: PromptResult | None, new: PromptResult | None) -> Pair:
    known = new or old
    assert known is not None  # noqa: S101
    return Pair(known.prompt, known.target_words, _side(old), _side(new))


def _side(result: PromptResult | None) -> Side | None:
    if result is None or result.picture is None:
        return None
    width, height = _size(result.picture)
    targets = {word.lower() for word in result.target_words}
    words = tuple((word, bool(targets & set(word.text.lower().split()))) for word in result.picture.words)
    return Side(base64.b64encode(result.picture.image).decode(), width, height, result.picture.reward, words)


def _size(picture: Picture) -> tuple[int, int]:
    with Image.open(io.BytesIO(picture.image), formats=["PNG"]) as image:
        return image.size


def changed_most(rows: Sequence[Pair], most: int) -> list[Pair]:
    """Up to ``most`` of the rows whose reward moved, up or down, the furthest first."""
    moved = [row for row in rows if row.change]
    return sorted(moved, key=lambda row: -abs(row.change))[:most]
