"""Prompts as token ids: the bytes of UTF-8, or the tokens of Qwen's own tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from tokenizers import Tokenizer

from varl.policy.nextflow.config import TransformerConfig

TOKENIZER = "tokenizer.json"
BOI, EOI, PAD = 0, 1, 2  # special tokens, after the text's vocabulary
SPECIALS = 3


class TextTokenizer(Protocol):
    """What makes ids of a prompt."""

    def encode(self, prompt: str) -> list[int]:
        """Ids, each at least 0 and below the model's ``text_vocab``; none for the empty prompt."""

    def save(self, model_dir: Path) -> None:
        """Write into a model folder what ``open_text`` reads there."""


class ByteText:
    """The bytes of UTF-8, 0 to 255."""

    def encode(self, prompt: str) -> list[int]:
        """One id a byte."""
        return list(prompt.encode())

    def save(self, model_dir: Path) -> None:
        """Bytes need no file."""


class QwenText:
    """The tokens of a tokenizer.json. Safe to use from several threads.

    Control tokens that a prompt spells out, such as <|im_end|>, are read as text: a prompt is data.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        tokenizer.encode_special_tokens = True
        self._tokenizer = tokenizer

    @classmethod
    def read(cls, folder: Path) -> QwenText:
        """Read tokenizer.json of a folder.

        Raises:
            ValueError: it is not a tokenizer.
            OSError: it is missing or cannot be read.
        """
        text = (folder / TOKENIZER).read_text(encoding="utf-8")
        try:
            return cls(Tokenizer.from_str(text))
        except Exception as error:  # the library raises nothing narrower
            raise ValueError(f"{folder / TOKENIZER} is not a tokenizer: {error}") from error

    @property
    def vocabulary(self) -> int:
        """Number of tokens, control tokens included."""
        return int(self._tokenizer.get_vocab_size(with_added_tokens=True))

    def encode(self, prompt: str) -> list[int]:
        """Ids of the prompt alone, with nothing around it."""
        return list(self._tokenizer.encode(prompt, add_special_tokens=False).ids)

    def control(self, token: str) -> int:
        """The id of a control token; raises ValueError where there is none."""
        found = self._tokenizer.token_to_id(token)
        if found is None:
            raise ValueError(f"{TOKENIZER} has no token {token}")
        return int(found)

    def save(self, model_dir: Path) -> None:
        """Write tokenizer.json."""
        self._tokenizer.save(str(model_dir / TOKENIZER))


class GuessedText:
    """As many tokens as Qwen's may make of a prompt, none of them the right one: for sizes without tokenizer.json."""

    def encode(self, prompt: str) -> list[int]:
        """A token for three bytes, which is more than English has."""
        return [0] * (-(-len(prompt.encode()) // 3))

    def save(self, model_dir: Path) -> None:
        """There is nothing to write."""


def open_text(config: TransformerConfig, folder: Path) -> TextTokenizer:
    """The tokenizer that a configuration names, its file read from ``folder``.

    Raises:
        ValueError: tokenizer.json is not a tokenizer or has more tokens than ``text_vocab``.
        OSError: tokenizer.json is missing or cannot be read.
    """
    if config.text == "bytes":
        return ByteText()
    text = QwenText.read(folder)
    if text.vocabulary > config.text_vocab:
        raise ValueError(f"transformer.text_vocab is {config.text_vocab}, {TOKENIZER} has {text.vocabulary} tokens")
    return text
