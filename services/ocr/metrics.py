"""Word Accuracy and NED as the CVTG-2K evaluation script computes them; pool over images by summing."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from rapidfuzz.distance import Levenshtein

_EPS = 1e-5


def word_accuracy_counts(targets: Sequence[str], read: Sequence[str]) -> tuple[int, int]:
    """(target words that occur among the words read, target words); words read again or in excess change nothing."""
    wanted, seen = _words(targets), _words(read)
    return sum(word in seen for word in wanted), len(wanted)


def ned_values(targets: Sequence[str], read: Sequence[str]) -> list[float]:
    """For every target word, 1 - edit distance / (longer length + 1e-5) to the word read that difflib ranks nearest.

    Each in [0, 1]. Nothing read counts as one empty word, as in the script. Note that difflib's ratio picks the match
    and the edit distance judges it.
    """
    seen = _words(read) or [""]
    return [_ned(word, difflib.get_close_matches(word, seen, n=1, cutoff=0.0)[0]) for word in _words(targets)]


def _ned(target: str, match: str) -> float:
    return 1.0 - Levenshtein.distance(target, match) / (max(len(target), len(match)) + _EPS)


def _words(texts: Sequence[str]) -> list[str]:
    return [word for text in texts for word in text.lower().split()]
