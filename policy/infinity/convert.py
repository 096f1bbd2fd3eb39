"""From published files to a model folder: sizes are read off the shapes, and every name has to be accounted for."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor

from varl.policy.infinity.checkpoints import State, read_tokenizer, read_transformer
from varl.policy.infinity.config import PRESETS, InfinityConfig, TokenizerConfig, TransformerConfig
from varl.policy.infinity.policy import TOKENIZER, WEIGHTS
from varl.policy.infinity.tokenizer import Tokenizer
from varl.policy.infinity.transformer import InfinityTransformer
from varl.policy.tensor_files import check_state, save_state


def convert(
    transformer: Path, tokenizer: Path, target: Path, aspect_ratio: float, scales: int, dtype: torch.dtype
) -> InfinityConfig:
    """Write a model folder that varl.policy.load takes; the configuration it has.

    transformer, tokenizer: published files (varl.policy.infinity.checkpoints). aspect_ratio: height over width, one of
    the templates. scales: of the image, 7 for 0.06M pixels to 13 for 1M. dtype: of the transformer's weights as
    written; the tokenizer's are float32.

    Raises:
        ValueError: a file is of another format or model, the two do not fit together, or a name is missing or unknown;
            nothing is written then.
        OSError: a file cannot be read or written.
    """
    weights, autoencoder = read_transformer(transformer), read_tokenizer(tokenizer)
    config = InfinityConfig(
        tokenizer=tokenizer_config(autoencoder, _site_bits(weights, transformer), tokenizer),
        transformer=transformer_config(weights, transformer),
        aspect_ratio=aspect_ratio,
        scales=scales,
    )
    with torch.device("meta"):
        modules = InfinityTransformer(config), Tokenizer(config.tokenizer, config.grids)
    for module, state, source in zip(modules, (weights, autoencoder), (transformer, tokenizer), strict=True):
        check_state(module, state, str(source))
    config.write(target)
    save_state(weights, target / WEIGHTS, dtype)
    save_state(autoencoder, target / TOKENIZER, torch.float32)
    return config


def transformer_config(state: State, source: Path) -> TransformerConfig:
    """The sizes of a transformer's state dict; raises ValueError where it lacks what they are read from."""
    blocks = _numbers(state, r"block_chunks\.(\d+)\.module\.(\d+)\.ada_gss", source)
    _, pool_heads, size = _shape(state, "text_proj_for_sos.ca.mat_q", 3, source)
    text_length, text_width = _shape(state, "cfg_uncond", 2, source)
    return TransformerConfig(
        width=pool_heads * size,
        depth=len(blocks),
        heads=_shape(state, "block_chunks.0.module.0.sa.scale_mul_1H11", 4, source)[1],
        chunks=len({chunk for chunk, _ in blocks}),
        pool_heads=pool_heads,
        text_width=text_width,
        text_length=text_length,
        levels=_shape(state, "lvl_embed.weight", 2, source)[0],
    )


def tokenizer_config(state: State, site_bits: int, source: Path) -> TokenizerConfig:
    """The sizes of a tokenizer's state dict, for a transformer of so many bits a token.

    Raises:
        ValueError: it lacks what they are read from, or has neither as many bits nor a quarter of them.
    """
    bits = _shape(state, "encoder.conv_out.weight", 4, source)[0]
    if site_bits not in (bits, 4 * bits):
        raise ValueError(f"{source} is a tokenizer of {bits} bits, the transformer's tokens have {site_bits}")
    channels = _shape(state, "encoder.conv_in.weight", 4, source)[0]
    places = _numbers(state, r"encoder\.down\.(\d+)\.block\.(\d+)\.conv1\.weight", source)
    levels, blocks = (len(set(numbers)) for numbers in zip(*places, strict=True))
    widths = [_shape(state, f"encoder.down.{level}.block.0.conv1.weight", 4, source)[0] for level in range(levels)]
    multipliers = tuple(width // channels for width in widths)
    return TokenizerConfig(
        bits=bits, channels=channels, multipliers=multipliers, blocks=blocks, patchify=site_bits != bits
    )


def preset_name(config: InfinityConfig) -> str:
    """The name of a published size, or "of another size"."""
    return next((name for name, sizes in PRESETS.items() if sizes == config.transformer), "of another size")


def _site_bits(state: State, source: Path) -> int:
    return _shape(state, "word_embed.weight", 2, source)[1]


def _shape(state: State, name: str, dimensions: int, source: Path) -> tuple[int, ...]:
    value: Tensor | None = state.get(name)
    if value is None or value.ndim != dimensions:
        raise ValueError(f"{source} lacks {name} of {dimensions} dimensions, so it is not a part of an Infinity model")
    return tuple(value.shape)


def _numbers(state: State, pattern: str, source: Path) -> set[tuple[int, ...]]:
    """The numbers in those names that match."""
    found = {tuple(map(int, match.groups())) for name in state if (match := re.fullmatch(pattern, name))}
    if not found:
        raise ValueError(f"{source} has no name like {pattern!r}, so it is not a part of an Infinity model")
    return found
