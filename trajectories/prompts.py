"""Prompt files and the order in which a run draws from them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from google.protobuf.struct_pb2 import Struct

from varl.metadata import Metadata, MetadataError, check_metadata, to_struct


@dataclass(frozen=True)
class PromptSpec:
    """A prompt, the words that its image should show, if any, and what else the rewards are told (checked metadata)."""

    prompt: str
    target_words: tuple[str, ...] = ()
    metadata: Metadata = field(default_factory=dict, hash=False)

    def metadata_message(self) -> Struct | None:
        """The metadata as it stands in a job; None where there is none."""
        return to_struct(self.metadata) if self.metadata else None


def load_prompts(path: str | Path) -> list[PromptSpec]:
    """Read JSON Lines of {"prompt": str, "target_words": [str], "metadata": {…}}, the last two where there are any.

    Raises:
        ValueError: a line is not such an object, or there is none; the message names file and line.
        FileNotFoundError: there is no such file.
    """
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    prompts = [_parse(line, f"{path}:{number}") for number, line in enumerate(lines, 1) if line.strip()]
    if not prompts:
        raise ValueError(f"{path}: no prompts")
    return prompts


def save_prompts(path: Path, specs: Sequence[PromptSpec]) -> None:
    """Write what ``load_prompts`` reads; raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{_line(spec)}\n" for spec in specs), encoding="utf-8")


def _line(spec: PromptSpec) -> str:
    fields = {"prompt": spec.prompt, "target_words": list(spec.target_words), "metadata": dict(spec.metadata)}
    return json.dumps({name: value for name, value in fields.items() if value}, ensure_ascii=False)


def _parse(line: str, where: str) -> PromptSpec:
    try:
        fields = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: not JSON: {error}") from error
    if not isinstance(fields, dict) or not {"prompt"} <= set(fields) <= {"prompt", "target_words", "metadata"}:
        raise ValueError(
            f'{where}: want {{"prompt": str}}, and "target_words": [str] and "metadata": {{…}} where there are any'
        )
    prompt, words, metadata = fields["prompt"], fields.get("target_words", []), fields.get("metadata", {})
    if not isinstance(prompt, str) or not prompt:
        raise ValueError(f"{where}: prompt must be a string that is not empty")
    if not isinstance(words, list) or not all(isinstance(word, str) and word for word in words):
        raise ValueError(f"{where}: target_words must be a list of strings that are not empty")
    try:
        check_metadata(metadata)
    except MetadataError as error:
        raise ValueError(f"{where}: {error}") from error
    return PromptSpec(prompt, tuple(words), metadata)


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
