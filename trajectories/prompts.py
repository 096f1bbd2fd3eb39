"""Prompts, and the order in which a run draws from them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from google.protobuf.struct_pb2 import Struct

from varl.metadata import Metadata, to_struct

MAX_PROMPT_CHARS, MAX_TARGET_WORDS = 4096, 64  # what every reward service takes by default (ServingSettings)
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class PromptSpec:
    """A prompt, the words that its image should show, if any, and what else the rewards are told (checked metadata)."""

    prompt: str
    target_words: tuple[str, ...] = ()
    metadata: Metadata = field(default_factory=dict, hash=False)

    def metadata_message(self) -> Struct | None:
        """The metadata as it stands in a job; None where there is none."""
        return to_struct(self.metadata) if self.metadata else None


Check = Callable[[PromptSpec], str | None]  # what is wrong with a prompt, if anything


def spec_fault(spec: PromptSpec) -> str | None:
    """Why reward services with their default limits refuse this prompt, by its field; None where they take it."""
    if not spec.prompt.strip():
        return "prompt: is blank"
    if len(spec.prompt) > MAX_PROMPT_CHARS:
        return f"prompt: {len(spec.prompt)} characters, at most {MAX_PROMPT_CHARS} are taken"
    if len(spec.target_words) > MAX_TARGET_WORDS:
        return f"target_words: {len(spec.target_words)} given, at most {MAX_TARGET_WORDS} are taken"
    if sum(map(len, spec.target_words)) > MAX_PROMPT_CHARS:
        return f"target_words: more than {MAX_PROMPT_CHARS} characters together"
    for name, text in [("prompt", spec.prompt), *((f"target_words[{i}]", w) for i, w in enumerate(spec.target_words))]:
        if not text.strip():
            return f"{name}: is blank"
        if _SURROGATE.search(text):
            return f"{name}: holds half of a surrogate pair, which is no character"
    return None


def draw_prompts(prompts: Sequence[PromptSpec], seed: int, update: int, count: int) -> list[PromptSpec]:
    """The ``count`` prompts of an update.

    Epochs are without replacement, each shuffled by (seed, epoch), so that resuming needs no state.
    """
    positions = range(update * count, (update + 1) * count)
    orders = {
        epoch: _epoch(len(prompts), seed, epoch) for epoch in {position // len(prompts) for position in positions}
    }
    return [prompts[orders[position // len(prompts)][position % len(prompts)]] for position in positions]


def _epoch(length: int, seed: int, epoch: int) -> list[int]:
    order: list[int] = np.random.default_rng([seed, epoch]).permutation(length).tolist()
    return order
