"""Infinity: bitwise next-scale text-to-image models, 125M to 8B (arXiv 2412.04431)."""

from __future__ import annotations

from pathlib import Path

import torch

from varl.policy import shards
from varl.policy.infinity.config import InfinityConfig, TokenizerConfig, TransformerConfig
from varl.policy.infinity.policy import TOKENIZER, WEIGHTS, InfinityPolicy
from varl.policy.infinity.text import GuessedRows, TextSource, text_source
from varl.policy.infinity.tokenizer import Tokenizer
from varl.policy.infinity.transformer import InfinityTransformer

__all__ = ["InfinityConfig", "InfinityPolicy", "TokenizerConfig", "TransformerConfig", "blank", "build", "load"]


def build(
    config: InfinityConfig, text: TextSource, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> InfinityPolicy:
    """A model with fresh weights out of torch's global random state.

    ``dtype`` is the transformer's, the tokenizer stays float32.
    """
    tokenizer = Tokenizer(config.tokenizer, config.grids)
    return InfinityPolicy(config, tokenizer, InfinityTransformer(config).to(dtype), text, device)


def load(model_dir: str | Path, device: str = "cpu", dtype: torch.dtype = torch.float32) -> InfinityPolicy:
    """Read a model directory: config.json, policy.safetensors, tokenizer.safetensors, and its rows or text encoder.

    The weights are mapped from the files, not copied, where device and dtype are the files' own.

    Raises:
        ValueError: the weights do not fit the configuration.
        OSError: a file is missing or cannot be read.
    """
    folder = Path(model_dir)
    config = InfinityConfig.read(folder)
    with torch.device("meta"):
        tokenizer, module = Tokenizer(config.tokenizer, config.grids), InfinityTransformer(config)
    for part, name, kind in ((tokenizer, TOKENIZER, torch.float32), (module, WEIGHTS, dtype)):
        files = shards.Shards(folder, Path(name).stem)
        shards.assign(part, files, str(files.source), device, kind)
    return InfinityPolicy(config, tokenizer, module, text_source(folder, config.transformer, device), device)


def blank(model_dir: str | Path, dtype: torch.dtype = torch.float32, depth: int | None = None) -> InfinityPolicy:
    """The model of a folder's config.json on the meta device, for its sizes: no file of weights or text is read.

    depth: so many layers instead, an even number.

    Raises:
        ValueError: config.json does not fit.
        OSError: it is missing or cannot be read.
    """
    config = InfinityConfig.read(Path(model_dir))
    if depth:
        size = config.transformer.model_copy(update={"depth": depth, "chunks": 2})
        config = config.model_copy(update={"transformer": size})
    with torch.device("meta"):
        tokenizer, module = Tokenizer(config.tokenizer, config.grids), InfinityTransformer(config).to(dtype)
    return InfinityPolicy(config, tokenizer, module, GuessedRows(config.transformer), "meta")
