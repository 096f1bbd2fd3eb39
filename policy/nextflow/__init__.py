"""NextFlow in plain PyTorch: one code for the tiny model and for 7B (arXiv 2601.02204, section 2)."""

from __future__ import annotations

from pathlib import Path

import torch

from varl.policy import shards
from varl.policy.base import Grid
from varl.policy.nextflow.config import NextFlowConfig, TokenizerConfig, TransformerConfig
from varl.policy.nextflow.policy import NextFlowPolicy
from varl.policy.nextflow.text import ByteText, GuessedText, TextTokenizer, open_text
from varl.policy.nextflow.tokenizer import Tokenizer
from varl.policy.nextflow.transformer import NextFlowTransformer

__all__ = [
    "NextFlowConfig",
    "NextFlowPolicy",
    "blank",
    "build",
    "build_random",
    "load",
    "load_tokenizer",
    "read_tokenizer",
]


def build(
    config: NextFlowConfig,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    text: TextTokenizer | None = None,
) -> NextFlowPolicy:
    """A model with fresh weights out of torch's global random state.

    ``dtype`` is the transformer's, the tokenizer stays float32. Raises ValueError as ``NextFlowPolicy`` does.
    """
    tokenizer, module = Tokenizer(config.tokenizer, config.grids), NextFlowTransformer(config).to(dtype)
    return NextFlowPolicy(config, tokenizer, module, device, text)


def load(model_dir: str | Path, device: str = "cpu", dtype: torch.dtype = torch.float32) -> NextFlowPolicy:
    """Read a model folder: config.json, policy.safetensors, tokenizer.safetensors, and tokenizer.json for Qwen's text.

    Weights are mapped from their files, or moved one at a time where device or dtype differ: there is no second copy.

    Raises:
        ValueError: the files do not fit together.
        OSError: a file is missing or cannot be read.
    """
    folder = Path(model_dir)
    config = NextFlowConfig.read(folder)
    text = open_text(config.transformer, folder)
    tokenizer = read_tokenizer(folder, config, device)
    with torch.device("meta"):
        module = NextFlowTransformer(config)
    _read(module, folder, "policy", device, dtype)
    return NextFlowPolicy(config, tokenizer, module, device, text)


def blank(model_dir: str | Path, dtype: torch.dtype = torch.float32, depth: int | None = None) -> NextFlowPolicy:
    """The model of a folder's config.json on the meta device, for its sizes: no file of weights or text is read.

    depth: so many layers instead.

    Raises:
        ValueError: config.json does not fit.
        OSError: it is missing or cannot be read.
    """
    config = NextFlowConfig.read(Path(model_dir))
    if depth:
        config = config.model_copy(update={"transformer": config.transformer.model_copy(update={"depth": depth})})
    text = ByteText() if config.transformer.text == "bytes" else GuessedText()
    with torch.device("meta"):
        tokenizer, module = Tokenizer(config.tokenizer, config.grids), NextFlowTransformer(config).to(dtype)
    return NextFlowPolicy(config, tokenizer, module, "meta", text)


def load_tokenizer(model_dir: str | Path, device: str = "cpu", dtype: torch.dtype = torch.float32) -> NextFlowPolicy:
    """Read all but policy.safetensors; the transformer's weights are fresh, as ``build`` gives them."""
    folder = Path(model_dir)
    config = NextFlowConfig.read(folder)
    text, tokenizer = open_text(config.transformer, folder), read_tokenizer(folder, config, device)
    return NextFlowPolicy(config, tokenizer, NextFlowTransformer(config).to(dtype), device, text)


def read_tokenizer(model_dir: str | Path, config: NextFlowConfig, device: str = "cpu") -> Tokenizer:
    """Read the vision tokenizer alone, tokenizer.safetensors of a folder, for a model of ``config``; float32.

    Raises:
        ValueError: the file is not that of ``config.tokenizer``.
        OSError: it is missing or cannot be read.
    """
    with torch.device("meta"):
        tokenizer = Tokenizer(config.tokenizer, config.grids)
    _read(tokenizer, Path(model_dir), "tokenizer", device, torch.float32)
    return tokenizer


def _read(module: torch.nn.Module, folder: Path, stem: str, device: str, dtype: torch.dtype) -> None:
    files = shards.Shards(folder, stem)
    shards.assign(module, files, str(files.source), device, dtype)


def build_random(seed: int = 0, dtype: torch.dtype = torch.float32, base_grid: Grid = (8, 8)) -> NextFlowPolicy:
    """A very small model with random weights, for tests: 32 codes and, square, 64x64 images of 121 tokens."""
    tokenizer = TokenizerConfig(
        codes=32, encoder=((16, 1), (16, 1)), decoder=((16, 1), (16, 1)), semantic_encoder=((16, 1), (16, 1))
    )  # fmt: skip
    transformer = TransformerConfig(dim=32, depth=2, heads=2, kv_heads=1, mlp_dim=64, rope_sections=(2, 3, 3))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build(NextFlowConfig(tokenizer=tokenizer, transformer=transformer, base_grid=base_grid), dtype=dtype)
