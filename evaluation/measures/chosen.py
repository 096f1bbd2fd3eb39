"""Which measures an evaluation has, by the names of its rewards."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from varl.evaluation.measures.appearance import APPEARANCE
from varl.evaluation.measures.base import Measure
from varl.evaluation.measures.ocr import NED, REWARD, WORD_ACCURACY
from varl.evaluation.measures.reward import one_reward, total_reward


def measures_of(weights: Mapping[str, float]) -> tuple[Measure, ...]:
    """The measures of rewards with these weights, the headlines first.

    What was read where OCR is one of them, then every reward, then how the images look.
    """
    words = (WORD_ACCURACY, NED) if needs_words(weights) else ()
    return (*words, total_reward(weights), *map(one_reward, weights), *APPEARANCE)


def needs_words(rewards: Collection[str]) -> bool:
    """Whether every prompt must have target words."""
    return REWARD in rewards
