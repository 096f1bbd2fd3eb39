"""Rows of the text encoder, flan-t5-xl, for prompts: computed once and kept on disk, or computed when asked for.

The encoder takes more memory than the smaller models themselves. Its rows depend on the prompt alone, so a run computes
them beforehand (``varl encode``), and neither rollout workers nor the trainer load it.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from varl.policy.infinity.config import TransformerConfig
from varl.policy.tensor_files import save_state

ROWS, ENCODER = "text_rows.safetensors", "text_encoder"  # in a model folder: the rows, and the encoder's own folder


class MissingPromptError(ValueError):
    """There are no rows for a prompt; the message says how to make them."""


class TextSource(Protocol):
    """Where a prompt's rows come from."""

    def rows(self, prompt: str) -> Tensor:
        """Float32 [L, text_width] on the CPU, 1 <= L <= text_length, a row a token, the end's included."""


class StoredRows:
    """Rows of a safetensors file whose names are the prompts; each is read when asked for.

    The file may not be there as long as no prompt is read.
    """

    def __init__(self, path: Path, config: TransformerConfig) -> None:
        self.path, self._config = path, config

    def prompts(self) -> set[str]:
        """The prompts that have rows; raises OSError where the file cannot be read."""
        if not self.path.is_file():
            return set()
        with self._open() as file:
            return set(file.keys())

    def rows(self, prompt: str) -> Tensor:
        """As ``TextSource.rows``.

        Raises:
            MissingPromptError: the file has no rows of this prompt.
            ValueError: its rows do not fit the model.
            OSError: the file cannot be read.
        """
        if self.path.is_file():
            with self._open() as file:
                if prompt in file.keys():  # noqa: SIM118 - it is no mapping
                    return check_rows(file.get_tensor(prompt).to(torch.float32), prompt, self._config)
        raise MissingPromptError(
            f"{self.path} has no rows of the prompt {prompt!r}; make them with: varl encode {self.path.parent} "
            "--prompts FILE.jsonl --encoder FOLDER_OF_FLAN_T5_XL"
        )

    def add(self, rows: dict[str, Tensor]) -> None:
        """Write these rows, as float16, beside those that are there, the whole file or nothing; raises OSError."""
        save_state(self._all() | rows, self.path, torch.float16)

    def _all(self) -> dict[str, Tensor]:
        if not self.path.is_file():
            return {}
        with self._open() as file:
            return {prompt: file.get_tensor(prompt) for prompt in file.keys()}  # noqa: SIM118 - it is no mapping

    def _open(self) -> Any:  # noqa: ANN401 - safetensors has no types
        try:
            return safe_open(self.path, framework="pt")
        except SafetensorError as error:
            raise OSError(f"{self.path} cannot be read: {error}") from error


class T5Rows:
    """Rows that flan-t5-xl's encoder computes, from a folder in the format of transformers, loaded at the first prompt.

    As published: float16 weights, no words put around the prompt, cut at text_length tokens.
    """

    def __init__(self, folder: Path, config: TransformerConfig, device: str = "cpu") -> None:
        self._folder, self._config, self._device = folder, config, device
        self._loaded: tuple[Any, Any] | None = None

    @torch.no_grad()
    def rows(self, prompt: str) -> Tensor:
        """As ``TextSource.rows``; the values are those of float16.

        Raises:
            ValueError: the encoder does not fit the model, or the prompt overflows float16.
            OSError: the folder lacks a file or has one that cannot be read.
        """
        tokenizer, encoder = self._load()
        tokens = tokenizer([prompt], max_length=self._config.text_length, truncation=True, return_tensors="pt")
        hidden = encoder(**{name: tokens[name].to(self._device) for name in ("input_ids", "attention_mask")})
        return check_rows(hidden.last_hidden_state[0].to("cpu", torch.float32), prompt, self._config)

    def _load(self) -> tuple[Any, Any]:
        if self._loaded is None:
            from transformers import AutoTokenizer, T5EncoderModel

            tokenizer = AutoTokenizer.from_pretrained(self._folder, legacy=True, local_files_only=True)
            encoder: Any = T5EncoderModel.from_pretrained(
                self._folder, dtype=torch.float16, use_safetensors=True, local_files_only=True
            )
            self._loaded = tokenizer, encoder.to(self._device).eval().requires_grad_(False)
        return self._loaded


class GuessedRows:
    """As many rows as flan-t5-xl may make of a prompt, without values: for sizes where nothing is computed."""

    def __init__(self, config: TransformerConfig) -> None:
        self._config = config

    def rows(self, prompt: str) -> Tensor:
        """A row for three bytes, which is more than English has, and one for the end; on the meta device."""
        count = min(-(-len(prompt.encode()) // 3) + 1, self._config.text_length)
        return torch.empty(count, self._config.text_width, device="meta")


def text_source(folder: Path, config: TransformerConfig, device: str) -> TextSource:
    """What a model folder has: an encoder, unless there are rows as well, else the rows, even if there are none yet."""
    if (folder / ENCODER).is_dir() and not (folder / ROWS).is_file():
        return T5Rows(folder / ENCODER, config, device)
    return StoredRows(folder / ROWS, config)


def encode(prompts: Iterable[str], source: TextSource, target: StoredRows) -> int:
    """Compute the rows of those prompts that ``target`` lacks, and write them; the number of prompts."""
    known = target.prompts()
    found = {prompt: source.rows(prompt) for prompt in dict.fromkeys(prompts) if prompt not in known}
    if found:
        target.add(found)
    return len(found)


def check_rows(rows: Tensor, prompt: str, config: TransformerConfig) -> Tensor:
    """The same rows; ValueError where their shape is not the model's or a value is not finite."""
    if rows.ndim != 2 or rows.shape[1] != config.text_width or not 1 <= len(rows) <= config.text_length:
        raise ValueError(
            f"the rows of the prompt {prompt!r} must be [1 to {config.text_length}, {config.text_width}], "
            f"got {list(rows.shape)}"
        )
    if not rows.isfinite().all():
        raise ValueError(f"the rows of the prompt {prompt!r} are not finite")
    return rows
