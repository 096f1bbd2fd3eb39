"""Quoted spans in any script; the file of cases was collected from public prompts and complaints."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from varl.services.ocr.quotes import quoted_spans
from varl.services.ocr.targets import resolve_targets

FILE = Path(__file__).parent / "data" / "targets.jsonl"
CASES = [json.loads(line) for line in FILE.read_text(encoding="utf-8").split("\n") if line]


@pytest.mark.parametrize("case", CASES, ids=[case["case"] for case in CASES])
def test_collected_cases(case: dict[str, Any]) -> None:
    assert list(resolve_targets(case["prompt"], ())) == case["want"]


PLAIN = [
    ("a red sign that says 'BREAD'", ["BREAD"]),
    ("'one' and 'two three', then 'four'", ["one", "two three", "four"]),
    ('a shop named "Blue Door"', ["Blue Door"]),
    ("a mug with “Good Day” and ‘Sir’", ["Good Day", "Sir"]),
    ('("HI") or **"YO"** or [\'HO\']:', ["HI", "YO", "HO"]),
    ("a sign '?' and \"...AND MORE\"", ["?", "...AND MORE"]),
    ('"A""B" and "C","D"', ["A", "B", "C", "D"]),
    ('a sign " HELLO " in red', ["HELLO"]),
    ("an empty sign ''", []),
    ('an empty sign "" and another "", then “”', []),
    ("only spaces '   '", []),
    ("no quotes at all", []),
    ("", []),
]
SCRIPTS = [
    ('写着"你好"的牌子', ["你好"]),
    ("写着'HELLO'的牌子和“欢迎\"", ["HELLO", "欢迎"]),
    ("牌子上写着「营业中」和『休息』，《红楼梦》", ["营业中", "休息", "红楼梦"]),
    ("看板に｢アリガトウ｣、﹁縦書き﹂", ["アリガトウ", "縦書き"]),
    ("「彼は「はい」と言った」と書いた紙", ["彼は「はい」と言った"]),
    ("写着”你好“的横幅", ["你好"]),
    ("간판에 '안녕하세요'라고 쓰여 있고 \"환영\"이라고", ["안녕하세요", "환영"]),
    ('ป้ายเขียนว่า"สวัสดี"สีแดง', ["สวัสดี"]),
    ("табличка «ХЛЕБ» и „Молоко“", ["ХЛЕБ", "Молоко"]),
    ("подпис 'П'ять' на стіні", ["П'ять"]),
    ("das „Brot“ und die ‚Milch‘, »Käse« und ›Wurst‹", ["Brot", "Milch", "Käse", "Wurst"]),
    ("kyltti ”AUKI” ja »KIINNI»", ["AUKI", "KIINNI"]),
    ("l'enseigne « L'ARTISAN » et ‹Pain›", ["L'ARTISAN", "Pain"]),
    ('של צה"ל ושלט "שלום"', ["שלום"]),
    ('لافتة "مرحبا" و«أهلا»', ["مرحبا", "أهلا"]),
]
TYPED = [
    ('says"HELLO" and text:"YOU"in red', ["HELLO", "YOU"]),
    ("says'OPEN' in red", ["OPEN"]),
    ('poster reading “HELLO" and "WORLD”', ["HELLO", "WORLD"]),
    ("‘HELLO' and 'WORLD’", ["HELLO", "WORLD"]),
    ("“A“ next to “B“", ["A", "B"]),
    ('the title "A", then it reads:" IN 2147, WE ROSE." on top', ["A", "IN 2147, WE ROSE."]),
    ("``Hello'' and ''World'' and `Code`", ["Hello", "World", "Code"]),
    ('""OPEN"" out of a table', ["OPEN"]),
    ("＂TEA＂ and ＇COFFEE＇", ["TEA", "COFFEE"]),
    (r"a T-shirt with \"HELLO\" and \'YOU\'", ["HELLO", "YOU"]),
    ("&quot;FISH &amp; CHIPS&quot; and &#8220;TEA&#8221;", ["FISH & CHIPS", "TEA"]),
    (r"\u201cHELLO\u201d on it", ["HELLO"]),
    (r'a screen with "GAME\nOVER" and "ONE\\nTWO"', ["GAME OVER", "ONE TWO"]),
    ('a\u200b"\u200bHELLO\u200b"\u200b sign', ["HELLO"]),
    ("\"He said 'HI' loudly\" and 'she \"YO\"'", ["He said 'HI' loudly", 'she "YO"']),
]
APOSTROPHES = [
    ("a note: 'don't stop' and ‘can’t stop’", ["don't stop", "can’t stop"]),
    ("don't draw the dog's bone, it's the dogs' day", []),
    ("the dogs' bowl says 'FOOD'", ["FOOD"]),
    ("'HI' on the dogs' bowl", ["HI"]),
    ("'Dogs' Day Out' and 'The Boys' Room'", ["Dogs' Day Out", "The Boys' Room"]),
    ("'Girls' and 'Boys'", ["Girls", "Boys"]),
    ("'The Beatles' on a shirt", ["The Beatles"]),
    ("a '90s sign that says 'DISCO'", ["DISCO"]),
    ("the '90s sign of the dogs' bowl", []),
    ("a shirt saying '90s Kids' in red", ["90s Kids"]),
    ("'Guns N' Roses' shirt, 'Fish 'n Chips'", ["Guns N' Roses", "Fish 'n Chips"]),
    ("‘Rock ’n’ Roll’, “Rock 'n' Roll”", ["Rock ’n’ Roll", "Rock 'n' Roll"]),
    ("a clock reads '12:00', a bus '15' and a jersey '23'.", ["12:00", "15", "23"]),
    ("'Route 5' in blue, '50 percent Off' on it, and 'Seat 12'", ["Route 5", "50 percent Off", "Seat 12"]),
    ("a jacket with 'Summer of '69', class of '98 and '99", ["Summer of '69"]),
    ("a '69 Mustang beside a 6' wall, a '98 car and a 20' boat", []),
    ("'Livin' on a Prayer' and 'Berlin' on a sign", ["Livin' on a Prayer", "Berlin"]),
    ("a mug with 'Til Death'", ["Til Death"]),
    ("the baker's sign reads “Joe's Bread”, 'O'Brien's Pub'", ["Joe's Bread", "O'Brien's Pub"]),
    ("it's 5 o'clock, the clock's 'TICK' isn't 'TOCK'", ["TICK", "TOCK"]),
    ("don't forget: a card with 'HI'.", ["HI"]),
    ("dall'Italia un po'", []),
    ("rock ' n ' roll", []),
]
UNPAIRED = [
    ('a sign "HELLO and a cat', []),
    ('a sign "HELLO and a "CAT"', ["CAT"]),
    ("'HELLO' and CAT'", ["HELLO"]),
    ('写着"你好"和"营业', ["你好"]),
    ('写着你好"和"营业"', ["营业"]),
    ("「A and B」C『D", ["A and B"]),
    ("A」 and 「B", []),
    ("“A and “B”, C”", ["B"]),
    ("»Brot« und »Milch", ["Brot"]),
    ("a 'HELLO\" thing", []),
    ("a 6' tall man, 6' 2\" and 5'10\" exactly", []),
    ('a 12" pizza and a 12"x6" sign with "HOT", 7" wide', ["HOT"]),
    ('"a 12" pizza" on "ROUTE 66"', ['a 12" pizza', "ROUTE 66"]),
    ('12 " x 6 " of wood', []),
]


@pytest.mark.parametrize(("prompt", "spans"), PLAIN + SCRIPTS + TYPED + APOSTROPHES + UNPAIRED)
def test_quoted_spans(prompt: str, spans: list[str]) -> None:
    assert list(quoted_spans(prompt)) == spans


PAIRS = '\'\' "" ‘’ “” „“ „” ‚‘ ”” «» »« ‹› 「」 『』 《》 ＂＂ ＇＇ “" "”'.split()  # noqa: SIM905
WORDS = st.text(alphabet="ABCXYZ019éЖ你好", min_size=1, max_size=8).filter(lambda word: not word[0].isdigit())
FIGURES = st.sampled_from(
    ["15", "7", "12:00", "19,999", "2.50", "555-1234", "100%", "24/7", "50% Off", "20 kg", "Route 5", "12:30 PM"]
)
OUTSIDE = st.lists(st.sampled_from(["a sign", "the dog's bowl", "don't", "with", "and", "in red,", "6' tall", "(big)"]))


@given(st.lists(st.tuples(OUTSIDE, WORDS | FIGURES, st.sampled_from(PAIRS)), max_size=5), OUTSIDE)
def test_all_that_is_quoted_and_nothing_else_comes_back(
    parts: list[tuple[list[str], str, str]], end: list[str]
) -> None:
    quoted = [[*outside, pair[0] + word + pair[1]] for outside, word, pair in parts]
    prompt = " ".join(piece for part in [*quoted, end] for piece in part)
    assert quoted_spans(prompt) == tuple(word for _, word, _ in parts)


@given(WORDS, st.sampled_from(PAIRS), st.integers(1, 9))
def test_between_letters_without_spaces_quotes_pair_as_well(word: str, pair: str, count: int) -> None:
    prompt = "写着" + "和".join([f"{pair[0]}你{word}好{pair[1]}"] * count) + "的牌子"
    assert quoted_spans(prompt) == (f"你{word}好",) * count


MARKS = "'\"‘’‚“”„«»‹›「」『』《》＂＇`"


@given(st.sampled_from(MARKS), OUTSIDE, OUTSIDE, st.sampled_from(["{0}WORD", "WORD{0}", "{0}", "WORD{0}WORD", " {0} "]))
def test_one_mark_quotes_nothing(mark: str, before: list[str], after: list[str], form: str) -> None:
    assert quoted_spans(" ".join([*before, form.format(mark), *after])) == ()


@given(st.text(alphabet=f"{MARKS}ab s9你.,-", max_size=60))
def test_every_span_stands_between_two_marks_and_no_two_overlap(prompt: str) -> None:
    text, at = prompt.translate(str.maketrans("＂＇`", "\"''")), 0
    for span in quoted_spans(prompt):
        found = re.compile(rf"[{MARKS}]\s*{re.escape(span)}\s*(?=[{MARKS}])").search(text, at)
        assert found is not None and span == span.strip() != ""
        at = found.end()


def test_thousands_of_marks_quote_nothing_and_cost_little() -> None:
    assert quoted_spans("'a' \"b\" " * 4_000) == ()
    assert len(quoted_spans("'a' \"b\" " * 250)) == 500
    assert quoted_spans("\\" * 50_000 + '"a"') == ("a",)  # quadratic, where each backslash looks for the end
