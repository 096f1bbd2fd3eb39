"""OCR rewards as pure functions: what was read against what was asked for, both lower-cased.

``comp_sim_pen`` is the reward of *VAR RL Done Right* (arXiv 2601.02256, section 4.2.1, equations 11-15). The paper
leaves the bag distance, eps and the case of nothing read open; the choices here are those of docs/method.md.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rapidfuzz.distance import Levenshtein

EPS = 1e-5  # of equation 11; the CVTG-2K script uses the same value
PENALTY_WEIGHT = 0.6  # lambda of equation 13


@dataclass(frozen=True)
class Recognized:
    """One word as the engine read it; confidence in [0, 1]."""

    text: str
    confidence: float


@dataclass(frozen=True)
class Reward:
    """A finite value and the named terms that make it up."""

    value: float
    components: dict[str, float]


BagDistance = Callable[[str, str], int]
Formula = Callable[[Sequence[str], Sequence[Recognized]], Reward]


def similarity(left: str, right: str) -> float:
    """LD of equation 11: 1 - edit distance / (longer length + eps), in [0, 1]."""
    return 1.0 - Levenshtein.distance(left, right) / (max(len(left), len(right)) + EPS)


def bag_distance_max(left: str, right: str) -> int:
    """The larger one-sided difference of the two character multisets."""
    ours, theirs = Counter(left), Counter(right)
    return max((ours - theirs).total(), (theirs - ours).total())


def bag_distance_symmetric(left: str, right: str) -> int:
    """The sum of both one-sided differences of the two character multisets."""
    ours, theirs = Counter(left), Counter(right)
    return (ours - theirs).total() + (theirs - ours).total()


def completeness(targets: Sequence[str], read: Sequence[Recognized]) -> float:
    """Comp of equation 12, in [0, 1].

    The mean over targets of the least confidence with which a target was read exactly, or 0 if it was not read.
    """
    return sum(min((word.confidence for word in read if word.text == target), default=0.0) for target in targets) / len(
        targets
    )


def nearest_similarity(targets: Sequence[str], read: Sequence[Recognized]) -> float:
    """Sim of equation 14: mean over targets of LD times confidence at the nearest word read; in [0, 1].

    Words equally near: the one with the highest confidence, so that their order does not matter.
    """
    return sum(_nearest(target, read) for target in targets) / len(targets)


def _nearest(target: str, read: Sequence[Recognized]) -> float:
    near, confidence = max(((similarity(target, word.text), word.confidence) for word in read), default=(0.0, 0.0))
    return near * confidence


def penalty(targets: Sequence[str], read: Sequence[Recognized], distance: BagDistance) -> float:
    """Pen of equation 13 on the words joined without spaces; in [0, 0.6]."""
    joined, wanted = "".join(word.text for word in read), "".join(targets)
    return PENALTY_WEIGHT * distance(joined, wanted) / (len(joined) + len(wanted))


def _lower(targets: Sequence[str], read: Sequence[Recognized]) -> tuple[list[str], list[Recognized]]:
    if not targets or not all(targets):
        raise ValueError("targets must hold at least one word and no empty one")
    return [target.lower() for target in targets], [Recognized(word.text.lower(), word.confidence) for word in read]


def comp_sim_pen(
    targets: Sequence[str], read: Sequence[Recognized], distance: BagDistance = bag_distance_max
) -> Reward:
    """Comp + Sim - Pen (equation 15), in [-0.6, 2]; nothing read gives -0.6.

    Raises:
        ValueError: there is no target, or an empty one.

    """
    wanted, seen = _lower(targets, read)
    comp, sim, pen = completeness(wanted, seen), nearest_similarity(wanted, seen), penalty(wanted, seen, distance)
    return Reward(comp + sim - pen, {"comp": comp, "sim": sim, "pen": pen})


def comp_sim_pen_symmetric(targets: Sequence[str], read: Sequence[Recognized]) -> Reward:
    """``comp_sim_pen`` with the symmetric bag distance: disjoint texts then cost the whole 0.6."""
    return comp_sim_pen(targets, read, bag_distance_symmetric)


def flow_grpo(targets: Sequence[str], read: Sequence[Recognized]) -> Reward:
    """The OCR reward of the flow_grpo trainer: 1 - capped edit distance / target length on the joined texts, in [0, 1].

    A target that occurs inside what was read scores 1 whatever else stands there. Words count in reading order;
    confidence does not.

    Raises:
        ValueError: there is no target, or an empty one.

    """
    wanted, seen = _lower(targets, read)
    target, text = "".join(wanted), "".join(word.text for word in seen)
    distance = 0 if target in text else min(Levenshtein.distance(text, target), len(target))
    value = 1.0 - distance / len(target)
    return Reward(value, {"similarity": value})


DEFAULT_FORMULA = "comp_sim_pen"
FORMULAS: dict[str, Formula] = {
    DEFAULT_FORMULA: comp_sim_pen,
    "comp_sim_pen_symmetric": comp_sim_pen_symmetric,
    "flow_grpo": flow_grpo,
}
