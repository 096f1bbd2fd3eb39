from __future__ import annotations

import difflib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from varl.services.ocr.metrics import ned_values, word_accuracy_counts

# The rows of ocr.md section 4 for "hello world": words read, hits, NED averaged over the two targets.
ROWS = [
    (["hello", "world"], 2, 1.0),
    (["Hello", "WORLD"], 2, 1.0),
    (["hello", "worxd"], 1, 0.9),
    (["hello"], 1, 0.6),
    (["hello", "world", "junk", "hello"], 2, 1.0),
    (["helloworld"], 0, 0.5),
    (["world", "hello"], 2, 1.0),
    ([], 0, 0.0),
]


@pytest.mark.parametrize(("seen", "hits", "ned"), ROWS)
def test_hand_worked_rows(seen: list[str], hits: int, ned: float) -> None:
    assert word_accuracy_counts(["Hello World"], seen) == (hits, 2)
    values = ned_values(["Hello World"], seen)
    assert len(values) == 2
    assert sum(values) / 2 == pytest.approx(ned, abs=1e-5)


def test_lines_are_split_and_repeated_targets_count_each() -> None:
    assert word_accuracy_counts(["a a b"], ["a line with a", "c"]) == (2, 3)


def test_difflib_picks_the_match_and_the_edit_distance_judges_it() -> None:
    target, by_ratio, by_distance = (
        "abcdef",
        "cdefab",
        "axcxex",
    )  # ratios 2 * 4 / 12 and 2 * 3 / 12, edit distances 4 and 3
    assert (
        difflib.SequenceMatcher(None, by_ratio, target).ratio()
        > difflib.SequenceMatcher(None, by_distance, target).ratio()
    )
    assert ned_values([target], [by_distance, by_ratio]) == [pytest.approx(1 - 4 / 6, abs=1e-5)]


def test_nothing_read_is_one_empty_word() -> None:
    assert ned_values(["abc"], []) == [pytest.approx(1 - 3 / 3.00001)]


def slow_edit_distance(left: str, right: str) -> int:
    row = list(range(len(right) + 1))
    for i, a in enumerate(left, 1):
        above, row[0] = row[0], i
        for j, b in enumerate(right, 1):
            above, row[j] = row[j], min(above + (a != b), row[j] + 1, row[j - 1] + 1)
    return row[-1]


WORDS = st.lists(st.text(alphabet="abcd", min_size=1, max_size=6), max_size=4)


@given(WORDS, WORDS)
def test_against_the_script_written_out(targets: list[str], seen: list[str]) -> None:
    expected = []
    for target in targets:
        match = difflib.get_close_matches(target, seen or [""], n=1, cutoff=0)[0]
        expected.append(1 - slow_edit_distance(target, match) / (max(len(target), len(match)) + 1e-5))
    assert ned_values(targets, seen) == pytest.approx(expected)
    assert word_accuracy_counts(targets, seen) == (len([word for word in targets if word in seen]), len(targets))
