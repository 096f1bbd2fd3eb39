"""Qwen2.5-VL checkpoints in the published format, tiny and random, and the NextFlow made of one."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from varl.policy.base import Grid
from varl.policy.nextflow import NextFlowConfig, NextFlowPolicy
from varl.policy.nextflow.config import Spectrum, TokenizerConfig, TransformerConfig
from varl.policy.nextflow.convert import from_qwen
from varl.policy.nextflow.qwen_files import qwen_transformer

CONTROLS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>")
ROWS = 280  # more than the tokenizer has, as in the published files
TOKENIZER = TokenizerConfig(
    codes=32, encoder=((16, 1), (16, 1)), decoder=((16, 1), (16, 1)), semantic_encoder=((16, 1), (16, 1))
)


def build_tokenizer() -> Tokenizer:
    """Byte-level BPE of two merges, "th" and "the"; every other byte is a token of its own."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*alphabet, "th", "the"])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[("t", "h"), ("th", "e")]))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in CONTROLS])
    return tokenizer


def build_qwen(folder: Path, seed: int = 0, tied: bool = False) -> Qwen2_5_VLForConditionalGeneration:
    """Write config.json, sharded weights with their index, and tokenizer.json; the model, in evaluation mode."""
    text = {
        "vocab_size": ROWS,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]},
        "bos_token_id": None,
        "eos_token_id": 0,
    }
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 32}
    torch.manual_seed(seed)
    config = Qwen2_5_VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=tied)
    model: Qwen2_5_VLForConditionalGeneration = Qwen2_5_VLForConditionalGeneration(config)
    model.train(False)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.1 + (parameter.ndim == 1))  # biases and gains as well
    model.save_pretrained(folder, max_shard_size="20KB")
    build_tokenizer().save(str(folder / "tokenizer.json"))
    return model


def config_of(folder: Path, spectrum: Spectrum = "mrope_interleaved", base_grid: Grid = (8, 8)) -> NextFlowConfig:
    """A small NextFlow around these files."""
    like = TransformerConfig(dim=32, heads=2, kv_heads=1, rope_sections=(2, 3, 3), rope_spectrum=spectrum)
    return NextFlowConfig(tokenizer=TOKENIZER, transformer=qwen_transformer(folder, like), base_grid=base_grid)


@cache
def _folder() -> Path:
    folder = Path(mkdtemp(prefix="qwen-"))
    build_qwen(folder)
    return folder


def build_random_qwen(
    dtype: torch.dtype = torch.float32, spectrum: Spectrum = "mrope_interleaved", base_grid: Grid = (8, 8)
) -> NextFlowPolicy:
    """The same small model every time, its text Qwen's."""
    with torch.random.fork_rng():
        folder = _folder()
        torch.manual_seed(3)
        return from_qwen(folder, config_of(folder, spectrum, base_grid), dtype=dtype)
