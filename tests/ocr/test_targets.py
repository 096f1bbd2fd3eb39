from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from varl.services.ocr.targets import RULES, resolve_targets


def test_targets_are_lower_case_words() -> None:
    assert resolve_targets("a sign 'Open  Now' and \"HERE\"", ()) == ("open", "now", "here")


def test_words_of_invisible_characters_alone_are_none() -> None:
    assert resolve_targets("a sign '\u200b' and 'OP\u200bEN'", ()) == ("open",)
    assert resolve_targets("'\u200b'", (), "cvtg-2k") == resolve_targets("", ["\u200b", "\ufeff"]) == ()


def test_given_words_win_over_the_prompt() -> None:
    assert resolve_targets("a sign 'OPEN'", ["Closed Today"]) == ("closed", "today")
    assert resolve_targets("a sign 'OPEN'", ["Closed Today"], "cvtg-2k") == ("closed", "today")


@pytest.mark.parametrize(
    ("span", "words"),
    [
        ("OPEN.", ("open",)),
        ("OPEN,", ("open",)),
        ("营业中。", ("营业中",)),
        ("Open today. Closed.", ("open", "today.", "closed")),
        ("WAIT...", ("wait...",)),
        ("WHY?", ("why?",)),
        ("STOP!", ("stop!",)),
        ("U.S.A.", ("u.s.a.",)),
        ("3.5", ("3.5",)),
        (".", (".",)),
    ],
)
def test_the_full_stop_or_comma_that_ends_a_quotation_is_the_sentences(span: str, words: tuple[str, ...]) -> None:
    assert resolve_targets(f'A sign that says "{span}"', ()) == words


def test_the_rule_of_cvtg_2k_is_its_regular_expression() -> None:
    prompt = "a sign 'JOE'S PLACE' beside 'Open  Now' and \"HERE\""
    assert resolve_targets(prompt, (), "cvtg-2k") == ("joe", "beside")  # an apostrophe ends a span
    assert resolve_targets(prompt, ()) == ("joe's", "place", "open", "now", "here")


@given(st.text(alphabet="ab '\"‘’“”„.", max_size=40), st.sampled_from(sorted(RULES)))
def test_targets_never_hold_blanks_or_capitals(prompt: str, rule: str) -> None:
    assert all(
        word and not any(char.isspace() for char in word) and word == word.lower()
        for word in resolve_targets(prompt, (), rule)
    )
