"""How much text an image may show."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest

from varl.services.ocr.engines.detection import MAX_LENGTH, MAX_LINES, BoundedDetection, TooMuchTextError, check_lines

WORD = np.array([[0, 0], [40, 0], [40, 10], [0, 10]])


def quad(width: float, height: float) -> list[list[float]]:
    return [[0, 0], [width, 0], [width, height], [0, height]]


def test_lines_are_counted() -> None:
    check_lines([WORD] * MAX_LINES)
    with pytest.raises(TooMuchTextError, match=f"{MAX_LINES + 1} lines of text, at most {MAX_LINES} are read"):
        check_lines([WORD] * (MAX_LINES + 1))


@pytest.mark.parametrize("turned", [False, True])
def test_lines_are_measured_in_their_heights(turned: bool) -> None:
    line = quad(12, 1200) if turned else quad(1200, 12)
    check_lines([line] * (MAX_LENGTH // 100))
    with pytest.raises(TooMuchTextError, match="as long as high"):
        check_lines([line] * (MAX_LENGTH // 100 + 1))
    with pytest.raises(TooMuchTextError, match="as long as high"):
        check_lines([quad(MAX_LENGTH + 1, 0)])


class Model:
    """A detection model with a setting, which finds as many words as it is asked for."""

    side = 64

    def __call__(self, counts: list[int], **_: object) -> Iterator[Mapping[str, Any]]:
        for count in counts:
            yield {"dt_polys": [WORD] * count}


def test_the_model_is_the_same_but_for_the_bound() -> None:
    model = BoundedDetection(Model())
    assert [len(result["dt_polys"]) for result in model([0, 3], thresh=0.3)] == [0, 3]
    assert model.side == 64
    with pytest.raises(TooMuchTextError):
        list(model([1, 5000]))
