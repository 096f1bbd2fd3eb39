"""NextFlow in plain PyTorch: one code for the tiny model and for 7B (arXiv 2601.02204, section 2)."""

from __future__ import annotations

from pathlib import Path

import safetensors.torch
import torch

from varl.policy.base import Grid
from varl.policy.nextflow.config import NextFlowConfig, TokenizerConfig, TransformerConfig
from varl.policy.nextflow.policy import NextFlowPolicy
from varl.policy.nextflow.tokenizer import Tokenizer
from varl.policy.nextflow.transformer import NextFlowTransformer

__all__ = ["NextFlowConfig", "NextFlowPolicy", "build", "build_random", "load", "load_tokenizer"]


def build(config: NextFlowConfig, device: str = "cpu", dtype: torch.dtype = torch.float32) -> NextFlowPolicy:
    """A model with fresh weights out of torch's global random state.

    ``dtype`` is the transformer's, the tokenizer stays float32.
    """
    return NextFlowPolicy(
        config, Tokenizer(config.tokenizer, config.grids), NextFlowTransformer(config).to(dtype), device
    )


def load(model_dir: str | Path, device: str = "cpu", dtype: torch.dtype = torch.float32) -> NextFlowPolicy:
    """Read a model directory: config.json, policy.safetensors, tokenizer.safetensors.

    Raises:
        ValueError: the weights do not fit the configuration.
        OSError: a file is missing or cannot be read.
    """
    policy = load_tokenizer(model_dir, device, dtype)
    policy.load_weights(str(Path(model_dir) / "policy.safetensors"))
    return policy


def load_tokenizer(model_dir: str | Path, device: str = "cpu", dtype: torch.dtype = torch.float32) -> NextFlowPolicy:
    """Read config.json and tokenizer.safetensors; the transformer's weights are fresh, as ``build`` gives them."""
    folder = Path(model_dir)
    policy = build(NextFlowConfig.read(folder), device, dtype)
    policy.tokenizer.load_state_dict(
        safetensors.torch.load_file(folder / "tokenizer.safetensors", device=str(policy.device))
    )
    return policy


def build_random(seed: int = 0, dtype: torch.dtype = torch.float32, base_grid: Grid = (8, 8)) -> NextFlowPolicy:
    """A very small model with random weights, for tests: 32 codes and, square, 64x64 images of 121 tokens."""
    tokenizer = TokenizerConfig(
        codes=32, encoder=((16, 1), (16, 1)), decoder=((16, 1), (16, 1)), semantic_encoder=((16, 1), (16, 1))
    )  # fmt: skip
    transformer = TransformerConfig(dim=32, depth=2, heads=2, kv_heads=1, mlp_dim=64, rope_sections=(2, 3, 3))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build(NextFlowConfig(tokenizer=tokenizer, transformer=transformer, base_grid=base_grid), dtype=dtype)
