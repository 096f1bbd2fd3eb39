"""Quotation marks where they stand: what each can be there, and how unlikely that is.

A mark between white space and a word opens, one between a word and white space closes, as in Markdown. Only for ' does
the wording tell more: it may be an apostrophe (don't, the dogs' bowl, 'n', keepin', '90s) or stand for feet.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, replace

from varl.services.ocr.folding import INVISIBLE

BRACKETS = dict(zip("「『《｢﹁﹃〝", "」』》｣﹂﹄〞", strict=True))
DOUBLE, SINGLE = '"“”„‟«»', "'‘’‚‛‹›"
_OPENING, _CLOSING = "“„‟«‘‚‛‹", "”»’›"  # what they do in most languages; straight marks do both
_ONLY_OPENING = "„‟‚‛"
GUILLEMETS = "«»‹›"  # French puts a space inside
GUILLEMETS_CLOSING = "»›", "«‹"  # those that close facing outwards, and those that close facing inwards
_PARTNERS = {
    '"': '"”“', "“": '”"“', "„": '“”"', "‟": '”"', "”": "”“", "«": "»", "»": "«»",
    "'": "'’‘", "‘": "’'‘", "‚": "‘’'", "‛": "’'", "’": "’'‘", "‹": "›", "›": "‹›",
}  # fmt: skip

# Costs. A mark that stands alone for no reason is what a reading must avoid, the more so where it could play one part
# only; an apostrophe is a good reason.
UNEXPLAINED, EITHER, UNUSUAL, FLOATING, APOSTROPHE, TWOFOLD, MISPLACED = 1.1, 1.0, 0.3, 0.4, 0.1, 0.15, 0.8
NUMBER = 0.055  # beside a figure: twice it, or it and TWOFOLD within a pair, are less than two apostrophes there
WITHIN = 1.05  # times the cost of a mark that stands alone within a pair
_LATER = 1e-6  # a character: of marks that could go either way, the last is the likeliest to lack its partner

_ESCAPED = re.compile(r"(?<!\\)\\+(?=[\"'“”„‘’‚«»`])")
_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z]{2,8});")
_CODE_POINT = re.compile(r"\\u([0-9a-cA-CefEF][0-9a-fA-F]{3}|[dD][0-7][0-9a-fA-F]{2})")  # no surrogate
_STRAIGHT = str.maketrans({**dict.fromkeys("＇`´ʹʼ′", "'"), **dict.fromkeys("＂ʺ″〃", '"')})

# Scripts in which ' between two letters is no apostrophe.
_NO_APOSTROPHE = re.compile(
    "[\u0600-\u06ff\u0900-\u109f\u1100-\u11ff\u1780-\u17ff\u2e80-\u30ff\u3130-\u318f\u31f0-\u9fff\uac00-\ud7af"
    "\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff]"
)
_HEBREW = re.compile("[\u05d0-\u05f2]")
_STARTS_SHORT = re.compile(
    r"(?:n|til|till|em|cause|coz|cuz|tis|twas|twere|bout|round|neath|sup|(?P<number>\d\d(?=\S))|\d\ds?)(?!\w)",
    re.IGNORECASE,
)
_DROPS_G = re.compile(r"\w\win\Z", re.IGNORECASE)  # keepin'
_ENDS_SHORT = re.compile(r"(?<!\w)(?:n|o|ol|lil|an|th|wit|mo|po|fo|al)\Z", re.IGNORECASE)
# The plural's possessive wants something possessed: a word that is none of these.
_POSSESSED = re.compile(
    r"\s+(?!(?:a|an|and|are|as|at|above|across|against|along|around|before|behind|below|beneath|beside|between|but|by|"
    r"for|from|has|in|inside|into|is|it|its|near|next|of|on|onto|or|over|that|the|then|to|under|using|was|where|which|"
    r"while|with|written)\b)\w",
    re.IGNORECASE,
)
_MEASURED = re.compile(r"\s*(?:tall|wide|high|long|deep|by|x|×)(?!\w)", re.IGNORECASE)
_JOINED_ON = re.compile(r"[a-z]{2}\Z")  # says'OPEN'


@dataclass(frozen=True)
class Mark:
    """A mark at text[start:end] and its costs: of opening, of closing (None: it cannot) and of standing alone."""

    char: str
    start: int
    end: int
    opens: float | None
    closes: float | None
    alone: float


def clean(prompt: str) -> str:
    """The prompt without escapes and invisible characters, and with one kind of straight marks."""
    text = _ENTITY.sub(lambda entity: html.unescape(entity[0]), prompt)
    text = _CODE_POINT.sub(lambda escape: chr(int(escape[1], 16)), text)
    return _ESCAPED.sub("", INVISIBLE.sub("", text)).translate(_STRAIGHT)


def partners(opening: str) -> str:
    """The marks that can end what ``opening`` begins."""
    return _PARTNERS[opening]


def brackets_in(text: str) -> list[Mark]:
    """Marks with a direction of their own, left to right."""
    both = "".join(BRACKETS) + "".join(BRACKETS.values())
    return [Mark(found[0], found.start(), found.end(), 0.0, 0.0, 0.0) for found in re.finditer(f"[{both}]", text)]


def marks_in(text: str, kind: str) -> Iterator[Mark]:
    """The marks of DOUBLE or of SINGLE, left to right, without apostrophes within words.

    Two and three straight marks in a row are one double mark.
    """
    for found in re.finditer(r"'{2,3}|(?<!\S)\"{2,3}|\"{2,3}(?!\S)|[" + kind + "]", text):
        double = len(found[0]) > 1 or found[0] in DOUBLE
        if double == (kind == DOUBLE):
            mark = _double(text, *found.span()) if double else _single(text, *found.span())
            if mark is not None:
                yield mark


def _double(text: str, start: int, end: int) -> Mark | None:
    char, before, after = text[start].replace("'", '"'), _before(text, start), _after(text, end)
    mark = _plain(char, start, end, before, after)
    if char != '"':
        return mark
    if end - start > 1 and before.isspace() and after.isspace():
        return None  # an empty pair
    if _HEBREW.match(before) and _HEBREW.match(after):  # in acronyms, before the last letter
        return replace(mark, opens=TWOFOLD, closes=TWOFOLD, alone=APOSTROPHE)
    if text[max(0, start - 2) : start].rstrip()[-1:].isdigit():  # inches
        return replace(mark, opens=None, closes=None if before.isspace() else mark.closes, alone=APOSTROPHE)
    return mark


def _single(text: str, start: int, end: int) -> Mark | None:
    char, before, after = text[start], _before(text, start), _after(text, end)
    if _in_word(before) and _in_word(after):
        joined = char == "'" and after.isupper() and _JOINED_ON.search(text[max(0, start - 2) : start])
        return Mark(char, start, end, UNUSUAL, None, 0.0) if joined else None
    mark = _plain(char, start, end, before, after)
    if char == "'" and before.isspace() and after.isspace():
        return None
    if char not in "'’‘":
        return mark
    if before.isdigit() and _MEASURED.match(text[end : end + 8]):  # feet
        return replace(mark, opens=None, closes=None, alone=APOSTROPHE)
    short = _STARTS_SHORT.match(text[end : end + 8])
    if mark.opens is not None and not _in_word(before) and short:
        return replace(mark, opens=mark.opens + (NUMBER if short["number"] else TWOFOLD), alone=APOSTROPHE)
    doubt = _doubt(text, start, end)
    return replace(mark, closes=mark.closes + doubt, alone=APOSTROPHE) if doubt and mark.closes is not None else mark


def _doubt(text: str, start: int, end: int) -> float:
    """What closing costs more where text[start:end] may be the apostrophe at a word's end, or mean feet; else 0."""
    word = text[max(0, start - 8) : start]
    if _ENDS_SHORT.search(word):
        return 2 * TWOFOLD
    possessive = word[-1:] in ("s", "S", "z", "Z", "x", "X") and _POSSESSED.match(text[end : end + 16])
    if possessive or _DROPS_G.search(word):
        return TWOFOLD
    return NUMBER if word[-1:].isdigit() and text[start] != "‘" else 0.0


def _plain(char: str, start: int, end: int, before: str, after: str) -> Mark:
    opens, closes = _directions(char, before, after)
    either = opens is not None and opens == closes
    return Mark(char, start, end, opens, closes, EITHER - _LATER * start if either else UNEXPLAINED)


def _directions(char: str, before: str, after: str) -> tuple[float | None, float | None]:
    """Costs of opening and closing by what stands on either side; a space is there at either end of the prompt."""
    space_before, space_after = before.isspace(), after.isspace()
    opens = closes = 0.0
    if char in _CLOSING:
        opens = UNUSUAL
    if char in _OPENING:
        closes = UNUSUAL
    if space_before and space_after:
        spaced = 0.0 if char in GUILLEMETS else FLOATING
        return opens + spaced, None if char in _ONLY_OPENING else closes + spaced
    can_open = not space_after and not (_is_punctuation(after) and not space_before and not _is_punctuation(before))
    can_close = not space_before and not (_is_punctuation(before) and not space_after and not _is_punctuation(after))
    if char == "'":  # no letter before what it opens, none after what it closes
        can_open, can_close = can_open and not _in_word(before), can_close and not _in_word(after)
    slipped = char in "\"'" and before in ":：" and space_after  # reads:" HELLO"
    # A mark with a direction keeps it whatever stands beside it.
    opens_anyway = MISPLACED if _in_word(before) else TWOFOLD
    closes_anyway = MISPLACED if _in_word(after) else TWOFOLD
    return (
        opens if can_open else opens_anyway if char in _OPENING or slipped else None,
        None if char in _ONLY_OPENING else closes if can_close else closes_anyway if char in _CLOSING else None,
    )


def _before(text: str, at: int) -> str:
    return text[at - 1] if at else " "


def _after(text: str, at: int) -> str:
    return text[at] if at < len(text) else " "


def _in_word(char: str) -> bool:
    """A letter or digit of a script with apostrophes."""
    return (char.isalnum() or unicodedata.category(char) == "Mn") and not _NO_APOSTROPHE.match(char)


def _is_punctuation(char: str) -> bool:
    return unicodedata.category(char)[0] in "PS"
