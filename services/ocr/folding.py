"""One spelling for text that looks the same in several code points, so that a reader's choice among them costs nothing.

Narrow on purpose: only characters that a printed page does not tell apart, or that nothing tells apart but their width,
become one. ½ is not 1/2, ² is not 2, ™ is not TM, Cyrillic А is not A.
"""

from __future__ import annotations

import re
import unicodedata

# Left out of every text: soft hyphen, zero-width spaces and joiners, marks of writing direction, variation selectors.
INVISIBLE = re.compile("[\u00ad\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufe00-\ufe0f\ufeff]")
# Of these blocks Unicode's compatibility form is the same glyph: micro sign, ℃ and ℉, Roman numerals, Kangxi radicals,
# Latin ligatures, Arabic presentation forms, small and full-width forms.
_SAME_GLYPH = re.compile(
    "[\u00b5\u2103\u2109\u2160-\u217f\u2f00-\u2fd5\ufb00-\ufb06\ufb50-\ufbb1\ufe50-\ufe6b\ufe70-\ufefc\uff01-\uffee]+"
)
_LOOKALIKES = str.maketrans(
    dict.fromkeys("‘’‚‛`´ʹʻʼʽˈ′＇", "'")
    | dict.fromkeys("“”„‟ʺ″〝〞〟", '"')
    | dict.fromkeys("‐‑‒–—―−﹘", "-")
    | dict.fromkeys("⋯…", "...")
    | dict.fromkeys("‧∙⋅・", "·")
)
# Scripts that put no space between words: Thai to Khmer, Kana, Han.
UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3041-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
_LAST_PAUSE = re.compile(r"(?<=[^.,。，、\s])(?<!\.\w)[.,。，、]\Z")
_UNSPACED_PAUSE = re.compile(f"(?<=[{UNSPACED}])[.,。，、]")


def fold(text: str) -> str:
    """Lower case, composed (NFC), without invisible characters; quotes, dashes, dots and widths each of one kind.

    Folding twice is folding once. White space is left as it is.
    """
    visible = INVISIBLE.sub("", text)
    plain = _SAME_GLYPH.sub(lambda run: unicodedata.normalize("NFKC", run[0]), visible).translate(_LOOKALIKES)
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", plain).lower())


def without_last_pause(text: str) -> str:
    """``text`` without the full stop or comma, Western or CJK, that ends it: it belongs to the sentence around it.

    Two or more as in "wait..." belong to the text, as do the full stops of an abbreviation (U.S.A.), question marks and
    exclamation marks.
    """
    return _LAST_PAUSE.sub("", text)


def same_form(word: str) -> str:
    """The form in which words are compared: folded, and without pauses.

    Pauses are what ``without_last_pause`` leaves out and every full stop and comma behind a letter of UNSPACED, for
    which a line break may stand.
    """
    return without_last_pause(_UNSPACED_PAUSE.sub("", fold(word)))
