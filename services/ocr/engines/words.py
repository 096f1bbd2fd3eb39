"""Lines of text with one box each, split into words with one polygon each."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from itertools import pairwise

from varl.services.ocr.engines.base import Point, ReadWord

Quad = Sequence[Sequence[float]]  # four corners: left-top, right-top, right-bottom, left-bottom as the line is read


def split_line(
    text: str, confidence: float, line: Quad, items: Sequence[str], item_boxes: Sequence[Quad]
) -> list[ReadWord]:
    """The whitespace-separated words of a line, each with the line's confidence and its own part of the polygon.

    PaddleX's word items are no words: they break at punctuation ("don", "'", "t") and a space may share an item with a
    comma. They only tell here where along the line a gap lies; the line is cut at the middle of each gap, so that the
    words' polygons together cover the whole line and no stroke falls between two of them.
    """
    words = [(match.start(), match.end()) for match in re.finditer(r"\S+", text)]
    vertical = _is_vertical(line)
    positions = _positions(text, line, items, item_boxes, vertical)
    gaps = [positions[left[1] : right[0]] for left, right in pairwise(words)]
    cuts = [0.0, *(sum(gap) / len(gap) for gap in gaps), 1.0]
    return [
        ReadWord(text[start:end], confidence, _slice(line, cuts[index], cuts[index + 1], vertical))
        for index, (start, end) in enumerate(words)
    ]


def _is_vertical(line: Quad) -> bool:
    xs, ys = [corner[0] for corner in line], [corner[1] for corner in line]
    return max(ys) - min(ys) > 1.5 * (max(xs) - min(xs))


def _positions(text: str, line: Quad, items: Sequence[str], item_boxes: Sequence[Quad], vertical: bool) -> list[float]:
    """Middle of every character as a fraction of the line's length, never decreasing.

    Evenly spaced if the items do not fit.
    """
    axis = 1 if vertical else 0
    start, end = line[0][axis], line[3 if vertical else 1][axis]
    if "".join(items) != text or len(items) != len(item_boxes) or end == start:
        return [(index + 0.5) / len(text) for index in range(len(text))]
    raw = [
        (box[0][axis] + (index + 0.5) / len(item) * (box[1][axis] - box[0][axis]) - start) / (end - start)
        for item, box in zip(items, item_boxes, strict=True)
        for index in range(len(item))
    ]
    positions, last = [], 0.0
    for value in raw:
        last = min(1.0, max(last, value if math.isfinite(value) else last))
        positions.append(last)
    return positions


def _slice(line: Quad, start: float, end: float, vertical: bool) -> tuple[Point, ...]:
    """The part of a quadrilateral between two fractions of its length."""
    a, b, c, d = line
    if vertical:
        return (_mix(a, d, start), _mix(b, c, start), _mix(b, c, end), _mix(a, d, end))
    return (_mix(a, b, start), _mix(a, b, end), _mix(d, c, end), _mix(d, c, start))


def _mix(left: Sequence[float], right: Sequence[float], fraction: float) -> Point:
    return (left[0] + fraction * (right[0] - left[0]), left[1] + fraction * (right[1] - left[1]))
