"""OCR rewards as pure functions: what was read against what was asked for, both in the form of ``folding.same_form``.

``comp_sim_pen`` is the reward of *VAR RL Done Right* (arXiv 2601.02256, section 4.2.1, equations 11-15). The paper
leaves the bag distance, eps and the case of nothing read open; the choices here are those of docs/method.md.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from rapidfuzz.distance import Levenshtein

from varl.services.ocr.folding import UNSPACED, same_form

EPS = 1e-5  # of equation 11; the CVTG-2K script uses the same value
PENALTY_WEIGHT = 0.6  # lambda of equation 13
_UNSPACED = re.compile(f"[{UNSPACED}]")


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
    return sum(_exact(target, read) for target in targets) / len(targets)


def _exact(target: str, read: Sequence[Recognized]) -> float:
    return min((word.confidence for word in _candidates(target, read) if word.text == target), default=0.0)


def all_read(targets: Sequence[str], read: Sequence[Recognized]) -> bool:
    """Whether every target word is among the words read, in the form in which formulas compare them.

    Raises:
        ValueError: there is no target, or an empty one.

    """
    wanted, seen = _compared(targets, read)
    return all(any(word.text == target for word in _candidates(target, seen)) for target in wanted)


def nearest_similarity(targets: Sequence[str], read: Sequence[Recognized]) -> float:
    """Sim of equation 14: mean over targets of LD times confidence at the nearest word read; in [0, 1].

    Words equally near: the one with the highest confidence, so that their order does not matter.
    """
    return sum(_nearest(target, read) for target in targets) / len(targets)


def _nearest(target: str, read: Sequence[Recognized]) -> float:
    found = ((similarity(target, word.text), word.confidence) for word in _candidates(target, read))
    near, confidence = max(found, default=(0.0, 0.0))
    return near * confidence


def _candidates(target: str, read: Sequence[Recognized]) -> Iterator[Recognized]:
    """What may be the target: every word read and, for scripts without spaces, words in a row as one.

    Such a text goes over to the next line anywhere: 新年快乐 on one line is 新年 and 快乐 on two. Words join where one
    of the letters that meet is of such a script; the least confident word's confidence is that of all.
    """
    yield from read
    if not _UNSPACED.search(target):
        return
    for start, word in enumerate(read):
        for following in read[start + 1 :]:
            if len(word.text) >= len(target) or not _UNSPACED.search(word.text[-1:] + following.text[:1]):
                break
            word = Recognized(word.text + following.text, min(word.confidence, following.confidence))
            yield word


def penalty(targets: Sequence[str], read: Sequence[Recognized], distance: BagDistance) -> float:
    """Pen of equation 13 on the words joined without spaces; in [0, 0.6]."""
    joined, wanted = "".join(word.text for word in read), "".join(targets)
    return PENALTY_WEIGHT * distance(joined, wanted) / (len(joined) + len(wanted))


def _compared(targets: Sequence[str], read: Sequence[Recognized]) -> tuple[list[str], list[Recognized]]:
    """Both in the form in which they are compared; what is read of invisible characters alone is dropped."""
    wanted = [same_form(target) for target in targets]
    if not wanted or not all(wanted):
        raise ValueError("targets must hold at least one word and no empty one")
    seen = (Recognized(same_form(word.text), word.confidence) for word in read)
    return wanted, [word for word in seen if word.text]


def comp_sim_pen(
    targets: Sequence[str], read: Sequence[Recognized], distance: BagDistance = bag_distance_max
) -> Reward:
    """Comp + Sim - Pen (equation 15), in [-0.6, 2]; nothing read gives -0.6.

    Raises:
        ValueError: there is no target, or an empty one.

    """
    wanted, seen = _compared(targets, read)
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
    wanted, seen = _compared(targets, read)
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
