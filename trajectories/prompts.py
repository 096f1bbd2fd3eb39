"""Prompt files and the order in which a run draws from them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from google.protobuf.struct_pb2 import Struct

from varl.metadata import Metadata, MetadataError, check_metadata, to_struct

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


def load_prompts(path: str | Path, check: Check = lambda spec: None) -> list[PromptSpec]:
    """Read JSON Lines of {"prompt": str, "target_words": [str], "metadata": {…}}, the last two where there are any.

    check: what a prompt must be beyond what every reward wants of it.

    Raises:
        ValueError: a line is not such an object or breaks a bound, or there is none; the message names file and line.
        FileNotFoundError: there is no such file.
    """
    prompts = []
    for where, line in numbered_lines(path):
        spec = _parse(line, where)
        fault = spec_fault(spec) or check(spec)
        if fault:
            raise ValueError(f"{where}: {fault}")
        prompts.append(spec)
    if not prompts:
        raise ValueError(f"{path}: no prompts")
    return prompts


def numbered_lines(path: str | Path) -> Iterator[tuple[str, str]]:
    """("file:number", line) of the lines of a UTF-8 file that are not blank.

    Only a line feed ends a line: what else Unicode calls a line break may stand in the text of a JSON string.

    Raises:
        ValueError: the file is no UTF-8.
        OSError: it cannot be read.
    """
    try:
        with Path(path).open(encoding="utf-8-sig", newline="\n") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield f"{path}:{number}", line.rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: no UTF-8: {error}") from error


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
    except (json.JSONDecodeError, RecursionError) as error:
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
