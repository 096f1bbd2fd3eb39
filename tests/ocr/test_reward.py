from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from varl.services.ocr.reward import (
    FORMULAS,
    Recognized,
    bag_distance_max,
    bag_distance_symmetric,
    comp_sim_pen,
    comp_sim_pen_symmetric,
    flow_grpo,
    similarity,
)

GROUND_TRUTH = ("hello", "world")


def read(*words: tuple[str, float]) -> list[Recognized]:
    return [Recognized(text, confidence) for text, confidence in words]


# Worked by hand from equations 11-15 for the targets "hello world"; LD's eps of 1e-5 is below the tolerance.
CASES = [
    ("perfect", read(("hello", 0.99), ("world", 0.99)), 0.99, 0.99, 0.0),
    ("case", read(("HELLO", 0.99), ("World", 0.99)), 0.99, 0.99, 0.0),
    # P lacks "l" and has an "x": one-sided differences 1 and 1; 0.6 * 1 / 20
    ("one letter wrong", read(("hello", 0.9), ("worxd", 0.8)), 0.9 / 2, (0.9 + 0.8 * 4 / 5) / 2, 0.6 * 1 / 20),
    # "world" is four edits from "hello": LD 0.2; five letters are missing of 5 + 10
    ("missing word", read(("hello", 0.99)), 0.99 / 2, (0.99 + 0.2 * 0.99) / 2, 0.6 * 5 / 15),
    ("spurious word", read(("hello", 0.9), ("world", 0.9), ("abc", 0.9)), 0.9, 0.9, 0.6 * 3 / 23),
    # Comp takes the least confident of the duplicates, Sim the most confident
    ("duplicate", read(("hello", 0.99), ("world", 0.99), ("hello", 0.4)), (0.4 + 0.99) / 2, 0.99, 0.6 * 5 / 25),
    ("glued", read(("helloworld", 0.98)), 0.0, 0.98 * 0.5, 0.0),
    ("swapped", read(("world", 0.99), ("hello", 0.99)), 0.99, 0.99, 0.0),
    ("nothing read", read(), 0.0, 0.0, 0.6),
    ("unsure", read(("hello", 0.5), ("world", 0.5)), 0.5, 0.5, 0.0),
]


@pytest.mark.parametrize(("seen", "comp", "sim", "pen"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_hand_worked_cases(seen: list[Recognized], comp: float, sim: float, pen: float) -> None:
    reward = comp_sim_pen(GROUND_TRUTH, seen)
    assert reward.components == pytest.approx({"comp": comp, "sim": sim, "pen": pen}, abs=1e-5)
    assert reward.value == pytest.approx(comp + sim - pen, abs=1e-5)


def test_bag_distances_differ_where_both_sides_have_extra_letters() -> None:
    assert bag_distance_max("aab", "bcc") == 2
    assert bag_distance_symmetric("aab", "bcc") == 4
    disjoint = read(("qqqqq", 1.0), ("zzzzz", 1.0))
    assert comp_sim_pen(GROUND_TRUTH, disjoint).components["pen"] == pytest.approx(0.3)
    assert comp_sim_pen_symmetric(GROUND_TRUTH, disjoint).components["pen"] == pytest.approx(0.6)


def test_eps_stands_in_the_denominator_of_ld() -> None:
    assert similarity("ab", "cd") == pytest.approx(1 - 2 / 2.00001, rel=1e-9)
    assert similarity("", "") == 1.0


FLOW_GRPO_CASES = [
    (read(("hello", 0.1), ("world", 0.1)), 1.0),
    (read(("hello", 0.9), ("worxd", 0.9)), 0.9),
    (read(("hello", 0.9)), 0.5),
    (read(("xx", 0.9), ("Hello", 0.9), ("World", 0.9), ("junk", 0.9)), 1.0),  # its known loophole
    (read(("world", 0.9), ("hello", 0.9)), 0.2),
    (read(), 0.0),
    (read(("q" * 40, 0.9)), 0.0),  # the distance is capped at the target's length
]


@pytest.mark.parametrize(("seen", "value"), FLOW_GRPO_CASES)
def test_flow_grpo(seen: list[Recognized], value: float) -> None:
    reward = flow_grpo(GROUND_TRUTH, seen)
    assert reward.value == pytest.approx(value)
    assert reward.components == {"similarity": reward.value}


@pytest.mark.parametrize("formula", FORMULAS.values())
@pytest.mark.parametrize("targets", [(), ("",), ("a", "")])
def test_no_target_is_an_error_not_a_number(formula: object, targets: Sequence[str]) -> None:
    assert callable(formula)
    with pytest.raises(ValueError, match="target"):
        formula(targets, read(("a", 1.0)))


TEXTS = st.text(alphabet="abcAB1é", min_size=1, max_size=6)
TARGETS = st.lists(TEXTS, min_size=1, max_size=4)
CONFIDENCES = st.floats(0, 1)
READINGS = st.lists(st.builds(Recognized, TEXTS, CONFIDENCES), max_size=5)


@given(TARGETS, READINGS)
def test_bounds(targets: list[str], seen: list[Recognized]) -> None:
    for formula in (comp_sim_pen, comp_sim_pen_symmetric):
        reward = formula(targets, seen)
        assert -0.6 - 1e-9 <= reward.value <= 2 + 1e-9
        assert 0 <= reward.components["comp"] <= 1 + 1e-9
        assert 0 <= reward.components["sim"] <= 1 + 1e-9
        assert 0 <= reward.components["pen"] <= 0.6 + 1e-9
    assert 0 <= flow_grpo(targets, seen).value <= 1


@given(TARGETS, READINGS, st.data())
def test_more_confidence_never_lowers_the_reward(
    targets: list[str], seen: list[Recognized], data: st.DataObject
) -> None:
    surer = [Recognized(word.text, data.draw(st.floats(word.confidence, 1))) for word in seen]
    assert comp_sim_pen(targets, surer).value >= comp_sim_pen(targets, seen).value - 1e-9


@given(st.lists(TEXTS, min_size=1, max_size=3), st.lists(st.builds(Recognized, TEXTS, CONFIDENCES), max_size=3))
def test_order_of_words_and_targets_does_not_matter(targets: list[str], seen: list[Recognized]) -> None:
    value = comp_sim_pen(targets, seen).value
    for wanted, got in itertools.product(itertools.permutations(targets), itertools.permutations(seen)):
        assert comp_sim_pen(wanted, got).value == pytest.approx(value, abs=1e-9)


@given(TARGETS, CONFIDENCES)
def test_a_perfect_reading_scores_twice_its_confidence(targets: list[str], confidence: float) -> None:
    assert comp_sim_pen(targets, [Recognized(word, confidence) for word in targets]).value == pytest.approx(
        2 * confidence
    )
