from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from varl.services.ocr.targets import quoted_spans, resolve_targets

PROMPTS = [
    ("a red sign that says 'BREAD'", ("BREAD",)),
    ("'one' and 'two three', then 'four'", ("one", "two three", "four")),
    ('a shop named "Blue Door"', ("Blue Door",)),
    ("a mug with “Good Day” and ‘Sir’", ("Good Day", "Sir")),
    ("the „Brot“ bakery", ("Brot",)),
    ("a note: 'don't stop'", ("don't stop",)),
    ("a note: ‘don’t stop’", ("don’t stop",)),
    ("don't draw the dog's bone", ()),
    ("it's the dogs' day", ()),
    ("the dogs' bowl says 'FOOD'", ("FOOD",)),
    ("a '90s sign that says 'DISCO'", ("DISCO",)),
    ("don't forget: a card with 'HI'.", ("HI",)),
    ("the baker's sign reads “Joe's Bread”", ("Joe's Bread",)),
    ("an empty sign ''", ()),
    ("only spaces '   '", ()),
    ("a 6' tall man", ()),
    ("no quotes at all", ()),
    ("", ()),
]


@pytest.mark.parametrize(("prompt", "spans"), PROMPTS)
def test_quoted_spans(prompt: str, spans: tuple[str, ...]) -> None:
    assert quoted_spans(prompt) == spans


def test_targets_are_lower_case_words() -> None:
    assert resolve_targets("a sign 'Open  Now' and \"HERE\"", ()) == ("open", "now", "here")


def test_given_words_win_over_the_prompt() -> None:
    assert resolve_targets("a sign 'OPEN'", ["Closed Today"]) == ("closed", "today")


@given(
    st.lists(st.text(alphabet="abcXYZ019", min_size=1, max_size=8), min_size=1, max_size=5),
    st.sampled_from(["''", '""', "‘’", "“”"]),
)
def test_what_is_quoted_comes_back(words: list[str], quotes: str) -> None:
    prompt = "a sign with " + " and ".join(f"{quotes[0]}{word}{quotes[1]}" for word in words) + " on it"
    assert quoted_spans(prompt) == tuple(words)


@given(st.text(alphabet="ab '\"‘’“”„.", max_size=40))
def test_targets_never_hold_blanks_or_capitals(prompt: str) -> None:
    assert all(
        word and not any(char.isspace() for char in word) and word == word.lower()
        for word in resolve_targets(prompt, ())
    )
