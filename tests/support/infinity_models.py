"""Very small Infinity models with random weights, and rows of a text encoder that nobody had to compute."""

from __future__ import annotations

import torch
from torch import Tensor

from varl.policy.infinity import InfinityConfig, InfinityPolicy, TokenizerConfig, TransformerConfig, build
from varl.policy.sampling import mix

TRANSFORMER = TransformerConfig(
    width=64, depth=4, heads=4, chunks=2, pool_heads=4, text_width=24, text_length=48, levels=15
)
SQUARE = InfinityConfig(
    tokenizer=TokenizerConfig(bits=32, channels=32, multipliers=(1, 1, 1, 1, 1), blocks=1),
    transformer=TRANSFORMER,
    scales=4,
)
TALL = SQUARE.model_copy(update={"aspect_ratio": 2.0, "scales": 5})
PATCHIFIED = SQUARE.model_copy(
    update={"tokenizer": TokenizerConfig(bits=14, channels=32, multipliers=(1, 1, 1, 1), blocks=1, patchify=True)}
)


class ByteRows:
    """A row a byte of the prompt and one for its end, each a function of the byte and of its place."""

    def __init__(self, width: int = TRANSFORMER.text_width) -> None:
        self.width = width

    def rows(self, prompt: str) -> Tensor:
        places = enumerate([*prompt.encode(), 256])
        seeds = (mix(byte, place) >> 1 for place, byte in places)
        return torch.stack([torch.randn(self.width, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


def random_policy(config: InfinityConfig = SQUARE, dtype: torch.dtype = torch.float32, seed: int = 3) -> InfinityPolicy:
    """The model of a seed; every parameter is random, biases and gains as well, so that each one matters."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        policy = build(config, ByteRows(config.transformer.text_width))
        for name, parameter in policy.module.named_parameters():
            if parameter.ndim == 1 or "scale_mul" in name:
                parameter.data += 0.1 * torch.randn_like(parameter)
        for parameter in policy.tokenizer.parameters():
            parameter.data += 0.02 * torch.randn_like(parameter)
    policy.module.to(dtype)
    return policy
