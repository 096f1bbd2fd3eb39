"""Bounds on what detection hands to recognition, whose time grows with the number and the length of lines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

MAX_LINES = 512
MAX_LENGTH = 4096  # of all lines together, in heights of each: some 40 full pages of a letter an inch wide


class TooMuchTextError(Exception):
    """An image shows more text than is read; the message says how much."""


class BoundedDetection:
    """A detection model of the pipeline that refuses images with more text than a sign, a poster or a page shows.

    A picture of 2048 x 2048 pixels that is full of single letters would take some twenty seconds of a core to read.
    """

    def __init__(self, model: Any) -> None:  # noqa: ANN401
        self._model = model

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        return getattr(self._model, name)

    def __call__(self, *arguments: Any, **options: Any) -> Iterator[Mapping[str, Any]]:  # noqa: ANN401
        """The model's results; raises TooMuchTextError."""
        for result in self._model(*arguments, **options):
            check_lines(result["dt_polys"])
            yield result


def check_lines(quads: Sequence[Any]) -> None:
    """Check the number of lines, each of four corners [4, 2] in pixels, and their length in heights together.

    Raises:
        TooMuchTextError: there is more.

    """
    if len(quads) > MAX_LINES:
        raise TooMuchTextError(f"image: {len(quads)} lines of text, at most {MAX_LINES} are read")
    length = sum(map(_length, quads))
    if length > MAX_LENGTH:
        raise TooMuchTextError(
            f"image: lines {length:.0f} times as long as high, at most {MAX_LENGTH} together are read"
        )


def _length(quad: Any) -> float:  # noqa: ANN401
    """Longer side over shorter side."""
    corners = np.asarray(quad, dtype=np.float64)
    along, across = (float(np.linalg.norm(corners[corner] - corners[0])) for corner in (1, 3))
    return max(along, across) / max(1.0, min(along, across))
