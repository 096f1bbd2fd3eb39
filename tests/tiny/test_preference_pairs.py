"""Pairs: reproducible, held-out words kept apart, each damage visible, labels of letters that fit the prompt."""

from __future__ import annotations

import numpy as np
import pytest

from varl.tiny.preference.facts import before, matches, read_prompt
from varl.tiny.preference.letters import token_labels
from varl.tiny.preference.pairs import DAMAGES, KINDS, SHARES, draw_pairs, make_pair, mirrored
from varl.tiny.render import COLOURS, OBJECTS, render, render_batch
from varl.tiny.words import is_held_out


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_gives_the_same_pair(kind: str) -> None:
    first, second = (make_pair(kind, np.random.default_rng(3)) for _ in range(2))
    assert first.prompt == second.prompt
    assert np.array_equal(first.better, second.better) and np.array_equal(first.worse, second.worse)
    assert first.better.shape == first.worse.shape == (64, 64, 3) and first.worse.dtype == np.uint8
    assert not np.array_equal(first.better, first.worse)


def test_training_never_shows_a_held_out_word_and_evaluation_asks_for_nothing_else() -> None:
    rng = np.random.default_rng(0)
    for pair in draw_pairs(300, rng):
        assert not any(
            is_held_out(word) for text in (pair.prompt, pair.shown or pair.prompt) for word in read_prompt(text).words
        )
    for kind in KINDS:
        assert all(is_held_out(word) for word in read_prompt(make_pair(kind, rng, held_out=True).prompt).words)


def test_wrong_words_differ_in_style_from_nothing_but_letters() -> None:
    rng = np.random.default_rng(1)
    for _ in range(30):
        pair = make_pair("letter", rng)
        assert pair.shown is not None
        assert matches(pair.prompt, pair.shown).count(False) == 1
        different = np.abs(pair.better.astype(int) - pair.worse.astype(int)).max(-1) > 60
        assert 0 < different.sum() < 0.12 * different.size, "one letter's cell at most"


@pytest.mark.parametrize("kind", DAMAGES)
def test_more_severe_is_further_from_the_clean_picture(kind: str) -> None:
    mild = severe = 0.0
    for seed in range(20):
        clean = render(("APPLE",), np.random.default_rng(seed))
        for severity in (0.2, 0.9):
            distance = float(
                np.abs(DAMAGES[kind](clean, severity, np.random.default_rng(seed)).astype(int) - clean.image).mean()
            )
            mild, severe = (mild + distance, severe) if severity == 0.2 else (mild, severe + distance)
    assert 0 < mild < severe


def test_shares_are_a_distribution() -> None:
    assert sum(SHARES.values()) == pytest.approx(1)


def test_tokens_are_labelled_with_the_letters_of_the_words_and_the_ones_before() -> None:
    right = total = 0
    for item in render_batch(100, np.random.default_rng(0)):
        seen, facts = token_labels(item), read_prompt(item.prompt)
        for word, rows in zip(item.words, np.split(np.arange(16), len(item.words)), strict=True):
            found = {
                (chr(64 + a), chr(64 + b))
                for a, b in zip(seen.before[rows].flat, seen.letter[rows].flat, strict=True)
                if b
            }
            right += len(found & set(zip("@" + word, word, strict=False)))
            total += len(found)
        assert set(seen.colour[seen.letter > 0]) == {list(COLOURS).index(facts.ink)}
        assert set(seen.colour[seen.letter == 0]) == {list(COLOURS).index(facts.colour)}
        assert set(seen.thing.flat) == {list(OBJECTS).index(facts.thing)}
    assert right > 0.99 * total


@pytest.mark.parametrize(
    ("asked", "shown", "found"),
    [
        (
            "a red sign that says 'CAT DO'",
            "a red flag that says 'CUT D'",
            [True, False, True, False, True, True, False],
        ),
        ("a red sign with 'CAT' in cyan", "a pink sign with 'CATS' in blue", [False, True, True, True, True, False]),
        ("a pink wall with 'ON' in black", "a pink wall that says 'ON'", [True, True, True, True, True]),
        ("a red sign that says 'CAT'", None, []),
    ],
)
def test_what_a_picture_shows_of_a_prompt(asked: str, shown: str | None, found: list[bool]) -> None:
    assert matches(asked, shown) == found


def test_letters_before() -> None:
    assert before(("CAT", "DO")) == [" ", "C", "A", " ", "D"]


def test_other_prompts_are_refused() -> None:
    with pytest.raises(ValueError, match="not a prompt"):
        read_prompt("a photo of a cat")


def test_mirrored_pairs_ask_for_the_other_picture() -> None:
    rng = np.random.default_rng(2)
    pair = make_pair("letter", rng)
    other = mirrored(pair)
    assert (
        (other.prompt, other.shown) == (pair.shown, pair.prompt)
        and other.better is pair.worse
        and other.worse is pair.better
    )
    assert matches(other.prompt, other.shown).count(False) == 1
    with pytest.raises(ValueError, match="damaged"):
        mirrored(make_pair("blur", rng))
