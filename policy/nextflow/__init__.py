"""NextFlow in plain PyTorch: one code for the tiny model and for 7B (method.md section 5)."""

from __future__ import annotations

from pathlib import Path

import safetensors.torch
import torch

from varl.policy.nextflow.config import NextFlowConfig, TokenizerConfig, TransformerConfig
from varl.policy.nextflow.policy import NextFlowPolicy
from varl.policy.nextflow.tokenizer import Tokenizer
from varl.policy.nextflow.transformer import NextFlowTransformer

__all__ = ["NextFlowConfig", "NextFlowPolicy", "build", "build_random", "load"]


def build(config: NextFlowConfig, device: str = "cpu") -> NextFlowPolicy:
    """A model with fresh weights out of torch's global random state."""
    return NextFlowPolicy(config, Tokenizer(config.tokenizer, config.grids), NextFlowTransformer(config), device)


def load(model_dir: str | Path, device: str = "cpu") -> NextFlowPolicy:
    """Read a model directory: config.json, policy.safetensors, tokenizer.safetensors.

    Raises:
        ValueError: the weights do not fit the configuration.
        OSError: a file is missing or cannot be read.
    """
    folder = Path(model_dir)
    policy = build(NextFlowConfig.read(folder), device)
    state = safetensors.torch.load_file(folder / "tokenizer.safetensors", device=str(policy.device))
    policy.tokenizer.load_state_dict({name: value.float() for name, value in state.items()})
    policy.load_weights(str(folder / "policy.safetensors"))
    return policy


def build_random(seed: int = 0) -> NextFlowPolicy:
    """A very small model with random weights, for tests: 64x64 images, 121 tokens, 32 codes."""
    tokenizer = TokenizerConfig(
        codes=32, encoder=((16, 1), (16, 1)), decoder=((16, 1), (16, 1)), semantic_encoder=((16, 1), (16, 1))
    )  # fmt: skip
    transformer = TransformerConfig(dim=32, depth=2, heads=2, kv_heads=1, mlp_dim=64, rope_sections=(2, 3, 3))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build(NextFlowConfig(tokenizer=tokenizer, transformer=transformer))
