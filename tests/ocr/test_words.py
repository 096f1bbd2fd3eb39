from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from varl.services.ocr.engines.words import split_line

LINE = [[10.0, 20.0], [110.0, 20.0], [110.0, 40.0], [10.0, 40.0]]


def box(start: float, end: float) -> list[list[float]]:
    return [[start, 20.0], [end, 20.0], [end, 40.0], [start, 40.0]]


def test_a_line_of_two_words_is_cut_in_the_gap() -> None:
    words = split_line("ab cd", 0.5, LINE, ["ab", " ", "cd"], [box(10, 50), box(50, 60), box(60, 110)])
    assert [(word.text, word.confidence) for word in words] == [("ab", 0.5), ("cd", 0.5)]
    assert words[0].polygon == ((10, 20), (55, 20), (55, 40), (10, 40))
    assert words[1].polygon == ((55, 20), (110, 20), (110, 40), (55, 40))


def test_a_wide_gap_is_cut_in_its_middle() -> None:
    first, _ = split_line("a   b", 1.0, LINE, ["a", "   ", "b"], [box(10, 40), box(40, 100), box(100, 110)])
    assert first.polygon[1][0] == pytest.approx(70)


def test_punctuation_stays_with_its_word() -> None:
    items, boxes = ["don", "'", "t", ", ", "go"], [box(10, 40), box(40, 45), box(45, 55), box(55, 65), box(65, 110)]
    words = split_line("don't, go", 1.0, LINE, items, boxes)
    assert [word.text for word in words] == ["don't,", "go"]
    assert words[0].polygon[1][0] == pytest.approx(62.5)  # the space is the second half of the item ", "


def test_one_word_has_the_whole_line() -> None:
    (word,) = split_line(" word ", 1.0, LINE, [" ", "word", " "], [box(10, 20), box(20, 100), box(100, 110)])
    assert word.polygon == tuple((x, y) for x, y in LINE)


def test_a_tilted_line_is_cut_along_its_slope() -> None:
    tilted = [[0.0, 0.0], [100.0, 50.0], [90.0, 70.0], [-10.0, 20.0]]
    first, second = split_line("a b", 1.0, tilted, [], [])
    assert first.polygon == ((0, 0), (50, 25), (40, 45), (-10, 20))
    assert second.polygon == ((50, 25), (100, 50), (90, 70), (40, 45))


def test_a_vertical_line_is_cut_from_top_to_bottom() -> None:
    vertical = [[0.0, 0.0], [10.0, 0.0], [10.0, 100.0], [0.0, 100.0]]
    boxes = [
        [[0.0, 0.0], [0.0, 20.0], [10.0, 20.0], [10.0, 0.0]],
        [[0.0, 20.0], [0.0, 40.0], [10.0, 40.0], [10.0, 20.0]],
    ]
    boxes.append([[0.0, 40.0], [0.0, 100.0], [10.0, 100.0], [10.0, 40.0]])
    first, second = split_line("a b", 1.0, vertical, ["a", " ", "b"], boxes)
    assert first.polygon == ((0, 0), (10, 0), (10, 30), (0, 30))
    assert second.polygon == ((0, 30), (10, 30), (10, 100), (0, 100))


def test_no_words_in_blank_text() -> None:
    assert split_line("  ", 0.0, LINE, [], []) == []
    assert split_line("", 0.0, LINE, [], []) == []


@given(st.text(alphabet="ab ,'", max_size=20), st.lists(st.floats(-500, 500), min_size=40, max_size=40))
def test_words_tile_the_line_whatever_the_items_say(text: str, edges: list[float]) -> None:
    items = list(text)
    boxes = [box(edges[2 * index], edges[2 * index + 1]) for index in range(len(items))]
    words = split_line(text, 0.5, LINE, items, boxes)
    assert [word.text for word in words] == text.split()
    ends = [(word.polygon[0][0], word.polygon[1][0]) for word in words]
    assert all(10 - 1e-9 <= start <= end <= 110 + 1e-9 for start, end in ends)
    assert all(left[1] == right[0] for left, right in pairwise(ends))
    assert not ends or (ends[0][0], ends[-1][1]) == (10, 110)
