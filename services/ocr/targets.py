"""Target words of a sample: given by the caller, or found in its prompt by a rule."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

from varl.services.ocr.folding import same_form, without_last_pause
from varl.services.ocr.quotes import quoted_spans

DEFAULT_RULE = "quotes"
_CVTG_2K = re.compile(r"'(.*?)'")  # of its script


def split_words(texts: Sequence[str]) -> tuple[str, ...]:
    """Lower-cased whitespace-separated words of several texts, in order, but for those without a visible character."""
    return tuple(word for text in texts for word in text.lower().split() if same_form(word))


def words_in_quotes(prompt: str) -> tuple[str, ...]:
    """Words of every pair of quotation marks; a full stop or comma that ends a span belongs to the sentence."""
    return split_words([without_last_pause(span) for span in quoted_spans(prompt)])


def words_of_cvtg_2k(prompt: str) -> tuple[str, ...]:
    """Targets as CVTG-2K's script has them: between two ', whatever they are, so that an apostrophe ends a span."""
    return split_words(_CVTG_2K.findall(prompt))


RULES: Mapping[str, Callable[[str], tuple[str, ...]]] = {DEFAULT_RULE: words_in_quotes, "cvtg-2k": words_of_cvtg_2k}


@lru_cache(maxsize=256)  # asked twice for each image, and for a whole group of images one prompt
def _words_by_rule(prompt: str, rule: str) -> tuple[str, ...]:
    return RULES[rule](prompt)


def resolve_targets(prompt: str, target_words: Sequence[str], rule: str = DEFAULT_RULE) -> tuple[str, ...]:
    """Words of ``target_words`` if given, else those of the prompt by the named rule of RULES; empty where none."""
    return split_words(target_words) if target_words else _words_by_rule(prompt, rule)
