"""What an evaluation found, prompt by prompt, and the figures that are pooled from it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, model_validator

from varl.evaluation.estimates import Array, Estimate, paired_change, pooled_ratio

Summary = dict[str, float | dict[str, float] | dict[str, float | None] | None]


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
    shares: dict[str, tuple[float, float]]  # by measure: a total over the images, and what it is a total of
    picture: Picture | None = None

    @model_validator(mode="before")
    @classmethod
    def _of_an_older_run(cls, fields: dict[str, Any]) -> dict[str, Any]:
        """Run directories of before the measures have OCR's figures and the rewards in fields of their own."""
        if "shares" in fields or "hits" not in fields:
            return fields
        old, count = dict(fields), fields["images"]
        words = old.pop("words")
        shares = {
            "word_accuracy": (old.pop("hits"), words),
            "ned": (old.pop("ned_sum"), words),
            "reward": (old.pop("reward_sum"), count),
        }
        return old | {
            "shares": shares | {f"reward/{name}": (total, count) for name, total in old.pop("reward_sums").items()}
        }


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

    def measures(self) -> tuple[str, ...]:
        """Names of the measures that some image has, in order.

        "word_accuracy" and "ned" with OCR, "reward" (weighted), "reward/<name>", "appearance/<figure>".
        """
        names = self.prompts[0].shares if self.prompts else ()
        return tuple(name for name in names if any(result.shares[name][1] for result in self.prompts))

    def asked(self) -> list[str]:
        """The prompts that images were asked of, in their order, those that failed among them."""
        indexed = {one.index: one.prompt for one in self.prompts} | {one.index: one.prompt for one in self.failed}
        return [indexed[index] for index in sorted(indexed)]

    def estimate(self, measure: str) -> Estimate:
        """One figure, pooled over all images, with its error clustered by prompt; raises ValueError for no prompts."""
        return pooled_ratio(*_totals(self.prompts, measure))

    def estimates(self) -> dict[str, Estimate]:
        """Every figure by its measure."""
        return {measure: self.estimate(measure) for measure in self.measures()}

    def summary(self) -> Summary:
        """The figures as they stand in eval.json; a standard error that cannot be known is null."""
        return summarised(self.estimates()) | {
            "prompts": len(self.prompts),
            "images": sum(result.images for result in self.prompts),
            "failures": len(self.failed),
        }


@dataclass(frozen=True)
class Difference:
    """After minus before by measure, over the prompts and the measures that both sides have."""

    changes: dict[str, Estimate]
    prompts: int

    def summary(self) -> Summary:
        """The figures as they stand in eval.json."""
        return summarised(self.changes) | {"prompts": self.prompts}


def summarised(estimates: Mapping[str, Estimate]) -> Summary:
    """Figures as they stand in eval.json.

    Each with its error as NAME_se; rewards by name together under ``rewards``, ``rewards_se``, and what is measured of
    the images' looks under ``appearance``, ``appearance_se``.
    """
    summary: Summary = {}
    for name, found in estimates.items():
        if "/" not in name:
            summary |= {name: found.value, f"{name}_se": finite_or_none(found.error)}
    for title, prefix in (("rewards", "reward/"), ("appearance", "appearance/")):
        named = {name.removeprefix(prefix): found for name, found in estimates.items() if name.startswith(prefix)}
        summary[title] = {name: found.value for name, found in named.items()}
        summary[f"{title}_se"] = {name: finite_or_none(found.error) for name, found in named.items()}
    return summary


def difference(before: Evaluation, after: Evaluation) -> Difference:
    """Paired change over the prompts that both evaluations scored.

    Raises:
        ValueError: the evaluations differ in seed, images per prompt or the prompt of an index, or share no prompt.
    """
    pair = common_prompts(before, after)
    shared = [measure for measure in before.measures() if measure in after.measures()]
    totals = {measure: (_totals(pair[0], measure), _totals(pair[1], measure)) for measure in shared}
    known = {measure: sides for measure, sides in totals.items() if all(counts.sum() for _, counts in sides)}
    return Difference({measure: paired_change(*sides) for measure, sides in known.items()}, len(pair[0]))


def common_prompts(before: Evaluation, after: Evaluation) -> tuple[list[PromptResult], list[PromptResult]]:
    """The results of the prompts that both evaluations scored, in the same order.

    Raises:
        ValueError: the evaluations differ in seed, images per prompt or the prompt of an index, or share no prompt.
    """
    if (before.seed, before.group_size) != (after.seed, after.group_size):
        raise ValueError("the evaluations differ in seed or images per prompt")
    old, new = ({result.index: result for result in side.prompts} for side in (before, after))
    common = sorted(old.keys() & new.keys())
    if any((old[i].prompt, old[i].target_words) != (new[i].prompt, new[i].target_words) for i in common):
        raise ValueError("the evaluations have different prompts at the same index")
    if not common:
        raise ValueError("the evaluations share no prompt")
    return [old[i] for i in common], [new[i] for i in common]


def finite_or_none(value: float) -> float | None:
    """NaN and infinities as None, which JSON can say."""
    return value if math.isfinite(value) else None


def _totals(results: Iterable[PromptResult], measure: str) -> tuple[Array, Array]:
    table = np.array([result.shares[measure] for result in results], dtype=np.float64).reshape(-1, 2)
    return table[:, 0], table[:, 1]
