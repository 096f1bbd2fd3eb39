"""The same text in other code points, and text that is not the same."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from varl.services.ocr.folding import fold, same_form
from varl.services.ocr.reward import FORMULAS, Recognized, comp_sim_pen, flow_grpo

SAME = [
    ("don’t", "don't"),
    ("‘N‛", "'n'"),
    ("“A”", '"a"'),
    ("WAIT…", "wait..."),
    ("9–5", "9-5"),
    ("9—5", "9‑5"),
    ("CAFÉ", unicodedata.normalize("NFD", "café")),
    ("ＳＡＬＥ！", "sale!"),
    ("50％", "50%"),
    ("ｶﾞ", "ガ"),
    ("OP\u200bEN\ufeff", "open"),
    ("BAK\u00adERY", "bakery"),
    ("\u202eopen\u202c", "OPEN"),
    ("❤\ufe0f", "❤"),
    ("ﬁsh", "fish"),
    ("Ⅳ", "IV"),
    ("20℃", "20°c"),
    ("⼈", "人"),
    ("\u212b", "å"),
    ("µ", "μ"),
    ("OPEN.", "open"),
    ("open,", "OPEN"),
    ("营业中。", "营业中"),
    ("新年快乐，万事如意", "新年快乐万事如意"),
]
OTHER = [
    ("½", "1/2"),
    ("½", "12"),
    ("x²", "x2"),
    ("™", "tm"),
    ("①", "1"),
    ("А", "a"),  # Cyrillic
    ("É", "e"),
    ("ß", "ss"),
    ("•", "."),
    ("×", "x"),
    ("wait...", "wait"),
    ("why?", "why"),
    ("stop!", "stop"),
    ("3.5", "35"),
    ("u.s.a.", "usa"),
    ("新年！", "新年"),
]


@pytest.mark.parametrize(("left", "right"), SAME)
def test_the_same_text_scores_as_the_same(left: str, right: str) -> None:
    for target, read in ((left, right), (right, left)):
        reward = comp_sim_pen([target], [Recognized(read, 0.9)])
        assert reward.components == pytest.approx({"comp": 0.9, "sim": 0.9, "pen": 0.0}, abs=1e-4)
        assert flow_grpo([target], [Recognized(read, 0.9)]).value == 1.0


@pytest.mark.parametrize(("left", "right"), OTHER)
def test_other_text_does_not(left: str, right: str) -> None:
    assert same_form(left) != same_form(right)
    assert comp_sim_pen([left], [Recognized(right, 1.0)]).components["comp"] == 0.0


@given(st.text(max_size=20))
def test_folding_twice_is_folding_once(text: str) -> None:
    assert fold(fold(text)) == fold(text)


@given(st.text(alphabet=st.characters(codec="ascii"), max_size=20))
def test_ascii_is_only_lower_cased_but_for_the_backtick(text: str) -> None:
    assert fold(text) == text.lower().replace("`", "'")


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=12))
def test_what_is_the_same_by_unicodes_canonical_forms_is_the_same(text: str) -> None:
    assert fold(unicodedata.normalize("NFD", text)) == fold(unicodedata.normalize("NFC", text))


CHINESE = "新年快乐"


@pytest.mark.parametrize(
    ("lines", "comp"),
    [
        (["新年快乐"], 1.0),
        (["新年", "快乐"], 1.0),
        (["新", "年", "快", "乐"], 1.0),
        (["快乐", "新年"], 0.0),
        (["新年快"], 0.0),
    ],
)
def test_text_of_a_script_without_spaces_may_stand_on_several_lines(lines: list[str], comp: float) -> None:
    assert comp_sim_pen([CHINESE], [Recognized(line, 1.0) for line in lines]).components["comp"] == comp


def test_the_least_certain_line_counts_and_other_words_stay_words() -> None:
    read = [Recognized("SALE", 0.9), Recognized("新年，", 0.8), Recognized("快乐", 0.6), Recognized("2026", 0.9)]
    reward = comp_sim_pen(["新年，快乐", "sale"], read)
    assert reward.components["comp"] == pytest.approx((0.6 + 0.9) / 2)
    assert comp_sim_pen(["新年快乐2026"], read[1:]).components["comp"] == pytest.approx(0.6)
    assert comp_sim_pen(["openlate"], [Recognized("open", 1.0), Recognized("late", 1.0)]).components["comp"] == 0.0


@pytest.mark.parametrize("formula", FORMULAS.values())
def test_what_is_read_of_invisible_characters_alone_is_nothing(formula: object) -> None:
    assert callable(formula)
    assert formula(["a"], [Recognized("\u200b", 1.0)]) == formula(["a"], [])
    with pytest.raises(ValueError, match="target"):
        formula(["\u200b"], [])
