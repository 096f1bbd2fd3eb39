"""At what size text is looked for in a picture, and how what two looks found becomes one reading.

A detector finds letters of some heights, in the pixels of the picture that it is given: on a large picture at full size
letters as wide as the picture are missed, on a shrunken one tiny letters are. Lines are recognised at full size in any
case.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from varl.services.ocr.engines.base import ReadWord

FULL_SIZE = 0
LEAST_SIDE = 64  # of a look; the pipeline enlarges what is smaller
# Height in the pixels of the first look from which its words are believed, whatever a closer look makes of them.
LARGE = 24.0
_SAME_PLACE = 0.5  # of the smaller of two boxes


@dataclass(frozen=True)
class Looks:
    """Longer sides, in pixels, that a picture is shrunk to for detection, FULL_SIZE: not at all.

    closer: that of a second look, where the caller asks for one; None: there is none. Words of less than
    ``least_confidence`` are dropped.
    """

    side: int = FULL_SIZE
    closer: int | None = None
    least_confidence: float = 0.0

    def closer_side(self, longer_side: int) -> int | None:
        """The side of the second look at a picture with this longer side; None where it would see no more."""
        if self.closer is None or self.side == FULL_SIZE:
            return None
        first = min(self.side, longer_side)
        second = longer_side if self.closer == FULL_SIZE else min(self.closer, longer_side)
        return self.closer if second > first else None

    def __str__(self) -> str:
        first = _named(self.side) if self.closer is None else f"{_named(self.side)} then {_named(self.closer)}"
        return f"{first}, confidence from {self.least_confidence:g}" if self.least_confidence else first


def _named(side: int) -> str:
    return "full size" if side == FULL_SIZE else str(side)


DEFAULT_LOOKS = Looks(480, FULL_SIZE)
CVTG_2K = Looks(960, None, 0.5)  # of CVTG-2K's script: PaddleOCR 2's defaults


def detection_options(side: int, longer_side: int) -> dict[str, Any]:
    """What the pipeline is told beyond its own settings, which leave a picture as it is from 64 pixels on."""
    if side == FULL_SIZE or longer_side <= side:
        return {}
    return {"text_det_limit_side_len": side, "text_det_limit_type": "max"}


def merged(first: Sequence[ReadWord], second: Sequence[ReadWord], scale: float) -> list[ReadWord]:
    """One reading out of two, in reading order.

    Words that are large in the first look are kept as it has them, everything else as the closer look has it; small
    words of the first look stay where the closer one found nothing. scale: of the first look's pixels to the image's.
    """
    large = [word for word in first if _height(word) * scale >= LARGE]
    small = [word for word in first if _height(word) * scale < LARGE]
    closer = _elsewhere(second, large)
    return in_order([*large, *closer, *_elsewhere(small, [*closer, *large])])


def _elsewhere(words: Sequence[ReadWord], taken: Sequence[ReadWord]) -> list[ReadWord]:
    """The words that do not lie where one of ``taken`` does."""
    if not words or not taken:
        return list(words)
    ours, theirs = _boxes(words)[:, None], _boxes(taken)[None]
    overlap = np.clip(np.minimum(ours[..., 2:], theirs[..., 2:]) - np.maximum(ours[..., :2], theirs[..., :2]), 0, None)
    smaller = np.minimum(_area(ours), _area(theirs))
    free = (overlap.prod(axis=-1) <= _SAME_PLACE * smaller).all(axis=1)
    return [word for word, kept in zip(words, free, strict=True) if kept]


def in_order(words: Sequence[ReadWord]) -> list[ReadWord]:
    """Line by line from the top, each from the left; a word belongs to the line whose first word's middle it spans."""
    lines: list[list[tuple[float, ReadWord]]] = []
    for word in sorted(words, key=_middle):
        left, top, _, bottom = _boxes([word])[0]
        line = next((line for line in lines[-1:] if top <= _middle(line[0][1]) <= bottom), None)
        if line is None:
            lines.append([(float(left), word)])
        else:
            line.append((float(left), word))
    return [word for line in lines for _, word in sorted(line, key=lambda placed: placed[0])]


def _middle(word: ReadWord) -> float:
    ys = [y for _, y in word.polygon]
    return (min(ys) + max(ys)) / 2


def _height(word: ReadWord) -> float:
    """Of its letters, about: across the line, or along it for a column of letters, which is far higher than wide."""
    (x0, y0), (x1, y1), *_, (x3, y3) = word.polygon
    return min(float(np.hypot(x3 - x0, y3 - y0)), 1.5 * float(np.hypot(x1 - x0, y1 - y0)))


def _boxes(words: Sequence[ReadWord]) -> npt.NDArray[np.float64]:
    """[n, 4]: left, top, right, bottom."""
    corners = [np.asarray(word.polygon, np.float64) for word in words]
    return np.array([[*points.min(axis=0), *points.max(axis=0)] for points in corners])


def _area(boxes: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.asarray((boxes[..., 2:] - boxes[..., :2]).prod(axis=-1))
