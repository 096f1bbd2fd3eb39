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


def require_measure(name: str, weights: Mapping[str, float]) -> None:
    """Raise ValueError where no evaluation of rewards with these weights has a measure of that name."""
    known = [measure.name for measure in measures_of(weights)]
    if name not in known:
        raise ValueError(f"no evaluation has the measure {name!r}; it has {', '.join(known)}")


def needs_words(rewards: Collection[str]) -> bool:
    """Whether every prompt must have target words."""
    return REWARD in rewards
