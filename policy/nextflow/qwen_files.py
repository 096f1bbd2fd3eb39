"""Qwen2.5's published files: what its config.json says, and its language weights by their published names."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from torch import Tensor

from varl.policy.nextflow.config import TransformerConfig
from varl.policy.nextflow.transformer import EPSILON
from varl.policy.shards import Shards

PREFIXES = ("model.", "model.language_model.")  # of the published files, and of some that were saved again
HEAD, EMBEDDING = "lm_head.weight", "embed_tokens.weight"


class _Rope(BaseModel):
    rope_theta: float | None = None
    mrope_section: tuple[int, int, int]


class QwenLanguage(BaseModel):
    """The language half's fields, named as in config.json; all others are of no use here."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    intermediate_size: int
    rms_norm_eps: float
    rope_theta: float | None = None
    rope_scaling: _Rope | None = None
    rope_parameters: _Rope | None = None
    tie_word_embeddings: bool = False
    use_sliding_window: bool = False


def read_language(folder: Path) -> QwenLanguage:
    """The language half of a Qwen2.5-VL config.json, whose fields lie at its top or in ``text_config``.

    Raises:
        ValueError: it is not JSON, a field is missing, or the model is one that varl cannot compute.
        OSError: it cannot be read.
    """
    file = folder / "config.json"
    try:
        raw: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        found = QwenLanguage.model_validate(raw | raw.get("text_config", {}))
    except ValidationError as error:
        raise ValueError(f"{file}: {error}") from error
    except (ValueError, AttributeError, TypeError) as error:
        raise ValueError(f"{file} is not a JSON object: {error}") from error
    if found.rms_norm_eps != EPSILON:
        raise ValueError(f"{file}: rms_norm_eps must be {EPSILON}, got {found.rms_norm_eps}")
    if found.use_sliding_window:
        raise ValueError(f"{file}: use_sliding_window must be false")
    return found


def qwen_transformer(folder: str | Path, like: TransformerConfig) -> TransformerConfig:
    """The transformer of Qwen's files in ``folder``; what they do not say (C, the spectrum) is as in ``like``.

    Raises:
        ValueError: config.json is not that of a Qwen2.5-VL that varl can compute.
        OSError: it cannot be read.
    """
    found = read_language(Path(folder))
    rope = found.rope_parameters or found.rope_scaling
    theta = found.rope_theta if rope is None or rope.rope_theta is None else rope.rope_theta
    if rope is None or theta is None:
        raise ValueError(f"{Path(folder) / 'config.json'}: rope_theta and mrope_section must be given")
    sizes = {
        "text": "qwen",
        "text_vocab": found.vocab_size,
        "dim": found.hidden_size,
        "depth": found.num_hidden_layers,
        "heads": found.num_attention_heads,
        "kv_heads": found.num_key_value_heads,
        "mlp_dim": found.intermediate_size,
        "rope_theta": theta,
        "rope_sections": rope.mrope_section,
        "qkv_bias": True,
        "qk_norm": False,
    }
    return TransformerConfig.model_validate(like.model_dump() | sizes)


class LanguageWeights:
    """The language half's tensors by the names that they have in ``NextFlowTransformer``, mapped from their files.

    Raises:
        ValueError: the files have no language weights.
        OSError: a file is missing or cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self._files, self._tied = Shards(folder, "model"), read_language(folder).tie_word_embeddings
        found = [prefix for prefix in PREFIXES if prefix + EMBEDDING in self._files]
        if not found:
            raise ValueError(f"{self._files.source} has no {PREFIXES[0]}{EMBEDDING}")
        self._prefix = found[0]

    def get(self, name: str) -> Tensor:
        """The tensor of one of the transformer's names; raises ValueError where the files lack it."""
        published = self._published(name)
        if published not in self._files:
            raise ValueError(f"{self._files.source} has no {published}")
        return self._files[published]

    def _published(self, name: str) -> str:
        if name == HEAD and not self._tied:
            return HEAD
        inner = EMBEDDING if name == HEAD else name
        return self._prefix + re.sub(r"\.(gate|up|down)_proj\.", r".mlp.\1_proj.", inner)
