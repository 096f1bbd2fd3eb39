"""Target words of a sample: given by the caller, or the quoted spans of its prompt."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

# A straight quote opens only where no word character stands before it, so that the apostrophe of "don't" opens nothing;
# inside single quotes an apostrophe may stand between two word characters.
_SPAN = re.compile(
    r"""(?<!\w)'(?=\S)((?:[^']|(?<=\w)'(?=\w))+?)(?<=\S)'(?!\w)"""
    r"""|(?<!\w)"([^"]+)\""""
    r"""|‘((?:[^‘’]|(?<=\w)’(?=\w))+)’(?!\w)"""
    r"""|[“„]([^“”„]+)[”“]"""
)


def split_words(texts: Sequence[str]) -> tuple[str, ...]:
    """Lower-cased whitespace-separated words of several texts, in order."""
    return tuple(word for text in texts for word in text.lower().split())


def quoted_spans(prompt: str) -> tuple[str, ...]:
    """Text inside single, double or typographic quotes, left to right, quotes removed."""
    return tuple(next(group for group in match.groups() if group is not None) for match in _SPAN.finditer(prompt))


@lru_cache(maxsize=256)  # asked twice for each image, and for a whole group of images one prompt
def _words_in_quotes(prompt: str) -> tuple[str, ...]:
    return split_words(quoted_spans(prompt))


def resolve_targets(prompt: str, target_words: Sequence[str]) -> tuple[str, ...]:
    """Lower-cased words of ``target_words`` if given, else of the prompt's quoted spans; empty if there are none."""
    return split_words(target_words) if target_words else _words_in_quotes(prompt)
