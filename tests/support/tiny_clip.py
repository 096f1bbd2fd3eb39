"""A CLIP of random weights and a few merges, in the format of the published ones."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers import CLIPConfig, CLIPModel

START, END = "<|startoftext|>", "<|endoftext|>"


def make_clip(folder: Path) -> Path:
    """Write config, weights, vocabulary and merges."""
    folder.mkdir(parents=True)
    characters = _byte_characters()
    vocabulary = [*characters, *(f"{character}</w>" for character in characters), "th", "the</w>", START, END]
    (folder / "vocab.json").write_text(json.dumps({word: index for index, word in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("#version: 0.2\nt h\nth e</w>\n")
    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    ids = {"vocab_size": len(vocabulary), "bos_token_id": len(vocabulary) - 2, "eos_token_id": len(vocabulary) - 1}
    config = CLIPConfig(
        text_config=tower | ids, vision_config=tower | {"image_size": 32, "patch_size": 8}, projection_dim=8
    )
    torch.manual_seed(0)
    CLIPModel(config).save_pretrained(folder)
    return folder


def _byte_characters() -> list[str]:
    """The character that stands for each byte in CLIP's (GPT-2's) vocabulary: itself where it can be seen."""
    seen = [*range(33, 127), *range(161, 173), *range(174, 256)]
    unseen = [byte for byte in range(256) if byte not in seen]
    return [chr(byte) for byte in seen] + [chr(256 + index) for index in range(len(unseen))]
