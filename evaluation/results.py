"""What an evaluation found, prompt by prompt, and the figures that are pooled from it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, ConfigDict

from varl.evaluation.estimates import Array, Estimate, paired_change, pooled_ratio


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_bytes="base64", val_json_bytes="base64")


class ReadWord(_Record):
    """One word as the OCR read it; polygon: x0 y0 x1 y1 … in pixels of the image."""

    text: str
    confidence: float
    polygon: tuple[float, ...]


class Picture(_Record):
    """The first image of a prompt (PNG) and what was read in it."""

    image: bytes
    words: tuple[ReadWord, ...]
    reward: float


class PromptResult(_Record):
    """Sums over the images of one prompt, from which every figure is pooled."""

    index: int
    prompt: str
    target_words: tuple[str, ...]
    images: int
    hits: int  # target words read, over all images
    words: int  # target words, over all images
    ned_sum: float  # over ``words``
    reward_sum: float  # weighted, over ``images``
    reward_sums: dict[str, float]  # by name, over ``images``
    picture: Picture | None = None


class FailedPrompt(_Record):
    """A prompt whose group failed to the last attempt; it is in no figure."""

    index: int
    prompt: str
    code: str
    detail: str


class Evaluation(_Record):
    """Results by prompt, in the order of the prompts."""

    tag: str
    weight_version: int
    seed: int
    group_size: int
    models: dict[str, str]  # reward name -> engine, model and revision that answered
    prompts: tuple[PromptResult, ...]
    failed: tuple[FailedPrompt, ...]

    def word_accuracy(self) -> Estimate:
        """Share of target words that were read, pooled over all images (CVTG-2K)."""
        return pooled_ratio(*_totals(self.prompts, "hits", "words"))

    def ned(self) -> Estimate:
        """1 - normalised edit distance to the nearest word read, mean over all target words (CVTG-2K)."""
        return pooled_ratio(*_totals(self.prompts, "ned_sum", "words"))

    def reward(self) -> Estimate:
        """Mean weighted reward of an image."""
        return pooled_ratio(*_totals(self.prompts, "reward_sum", "images"))

    def rewards(self) -> dict[str, float]:
        """Mean of each reward by name, unweighted."""
        images = sum(result.images for result in self.prompts)
        names = self.prompts[0].reward_sums if self.prompts else ()
        return {name: math.fsum(result.reward_sums[name] for result in self.prompts) / images for name in names}

    def summary(self) -> dict[str, float | int | dict[str, float] | None]:
        """The figures as they stand in eval.json; a standard error that cannot be known is null."""
        accuracy, ned = self.word_accuracy(), self.ned()
        return {
            "word_accuracy": accuracy.value,
            "word_accuracy_se": finite_or_none(accuracy.error),
            "ned": ned.value,
            "ned_se": finite_or_none(ned.error),
            "reward": self.reward().value,
            "rewards": self.rewards(),
            "prompts": len(self.prompts),
            "images": sum(result.images for result in self.prompts),
            "failures": len(self.failed),
        }


@dataclass(frozen=True)
class Difference:
    """After minus before, over the prompts that both sides have."""

    word_accuracy: Estimate
    ned: Estimate
    prompts: int

    def summary(self) -> dict[str, float | int | None]:
        """The figures as they stand in eval.json."""
        return {
            "word_accuracy": self.word_accuracy.value,
            "word_accuracy_se": finite_or_none(self.word_accuracy.error),
            "ned": self.ned.value,
            "ned_se": finite_or_none(self.ned.error),
            "prompts": self.prompts,
        }


def difference(before: Evaluation, after: Evaluation) -> Difference:
    """Paired change over the prompts that both evaluations scored.

    Raises:
        ValueError: the evaluations differ in seed, images per prompt or the prompt of an index, or share no prompt.
    """
    if (before.seed, before.group_size) != (after.seed, after.group_size):
        raise ValueError("the evaluations differ in seed or images per prompt")
    old, new = ({result.index: result for result in side.prompts} for side in (before, after))
    common = sorted(old.keys() & new.keys())
    if any((old[i].prompt, old[i].target_words) != (new[i].prompt, new[i].target_words) for i in common):
        raise ValueError("the evaluations have different prompts at the same index")
    pair = [old[i] for i in common], [new[i] for i in common]
    accuracy, ned = (paired_change(*(_totals(side, column, "words") for side in pair)) for column in ("hits", "ned_sum"))
    return Difference(accuracy, ned, len(common))


def finite_or_none(value: float) -> float | None:
    """NaN and infinities as None, which JSON can say."""
    return value if math.isfinite(value) else None


def _totals(results: Iterable[PromptResult], sums: str, counts: str) -> tuple[Array, Array]:
    rows = [(getattr(result, sums), getattr(result, counts)) for result in results]
    table = np.array(rows, dtype=np.float64).reshape(-1, 2)
    return table[:, 0], table[:, 1]
