"""Pairs: reproducible, held-out words kept apart, each damage visible, labels of letters that fit the prompt."""

from __future__ import annotations

import numpy as np
import pytest

from trainer.preference.letters import token_labels
from trainer.preference.pairs import DAMAGES, KINDS, SHARES, draw_pairs, make_pair
from trainer.preference.train import letter_matches
from trainer.pretrain.render import render, render_batch
from trainer.pretrain.words import is_held_out


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
        assert not any(is_held_out(word) for word in (*pair.asked, *(pair.shown or ())))
    for kind in KINDS:
        assert all(is_held_out(word) for word in make_pair(kind, rng, held_out=True).asked)


def test_wrong_words_differ_in_style_from_nothing_but_letters() -> None:
    rng = np.random.default_rng(1)
    for _ in range(30):
        pair = make_pair("letter", rng)
        assert pair.shown is not None
        wrong = [a != b for asked, shown in zip(pair.asked, pair.shown, strict=True) for a, b in zip(asked, shown, strict=True)]
        assert sum(wrong) == 1
        different = np.abs(pair.better.astype(int) - pair.worse.astype(int)).max(-1) > 60
        assert 0 < different.sum() < 0.12 * different.size, "one letter's cell at most"


@pytest.mark.parametrize("kind", DAMAGES)
def test_more_severe_is_further_from_the_clean_picture(kind: str) -> None:
    mild = severe = 0.0
    for seed in range(20):
        clean = render(("APPLE",), np.random.default_rng(seed))
        for severity in (0.2, 0.9):
            distance = float(np.abs(DAMAGES[kind](clean, severity, np.random.default_rng(seed)).astype(int) - clean.image).mean())
            mild, severe = (mild + distance, severe) if severity == 0.2 else (mild, severe + distance)
    assert 0 < mild < severe


def test_shares_are_a_distribution() -> None:
    assert sum(SHARES.values()) == pytest.approx(1)


def test_tokens_are_labelled_with_the_letters_of_the_words() -> None:
    right = total = 0
    for item in render_batch(100, np.random.default_rng(0)):
        letters, places = token_labels(item)
        for word, rows in zip(item.words, np.split(np.arange(16), len(item.words)), strict=True):
            for k, letter in enumerate(word):
                right += {ord(letter) - 64} == set(letters[rows][places[rows] == 1 + k])
                total += 1
    assert right > 0.99 * total


def test_letters_match_by_their_place() -> None:
    assert letter_matches(("CAT", "DO"), ("CUT", "D")) == [True, False, True, True, False]
    assert letter_matches(("CAT",), None) == []
