"""What the tiny preference model starts from: its tokenizer, its size, and the wording that it shares with HPSv3.

HPSv3 puts 500 tokens of instruction around each prompt. Here whole lines of it are single tokens, which makes a sequence
less than half as long and training faster; the text and its place are HPSv3's own.
"""

from __future__ import annotations

import json
import string
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from services.hpsv3.files import CONFIG, TOKENIZER, WEIGHTS, Files
from services.hpsv3.model import RewardModel, load_checkpoint
from services.hpsv3.native import read_config
from services.hpsv3.prompt import REWARD_TOKEN, Prompts, Wording, read_wording
from trainer.pretrain.render import COLOURS, OBJECTS

CONTROLS = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>"),
    *("<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"),
)  # Qwen2-VL's, in its order
VOCABULARY = 2048  # at most; merges end where every line is one token
WIDTH, LAYERS, HEADS = 128, 4, 4
VISION_WIDTH, VISION_LAYERS, VISION_HEADS = 96, 2, 3


def build_tokenizer(wording: Wording) -> Tokenizer:
    """Byte-level BPE over lines: lines of the instruction and words of our prompts become one token, capitals stay letters.

    Words come first in the order of merges, because a merge over the border of a prompt's words would hide letters from the model. For
    the same reason a space before two capitals stands alone: " Text" gives a merge of " T".
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    lines = pre_tokenizers.Split(Regex(r"\n+| (?=[A-Z]{2})"), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([lines, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=[], initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(_corpus(wording), trainer)
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in CONTROLS])
    return tokenizer


def _corpus(wording: Wording) -> list[str]:
    frame = wording.text("").replace(" \n", "\n")  # the space before a prompt belongs to its first word
    instruction = [line for line in frame.split("\n") if line]
    words = [f" {word}" for line in instruction for word in line.split()]
    asked = [f" {word}" for word in (*COLOURS, *OBJECTS, "a", "that", "says", "with", "in", "'")]
    return [*4 * [*asked, *words], *instruction, "system", "user", "You are a helpful assistant.", "\n\n\n\n"]


def config_fields(tokenizer: Tokenizer) -> dict[str, object]:
    """Contents of config.json for a tokenizer that has the reward token."""
    return {
        "model_type": "qwen2_vl",
        "vocab_size": tokenizer.get_vocab_size(),
        "hidden_size": WIDTH,
        "intermediate_size": 3 * WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e4,
        "rope_scaling": {"type": "mrope", "mrope_section": [4, 6, 6]},
        "initializer_range": 0.05,
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "eos_token_id": tokenizer.token_to_id("<|im_end|>"),
        "image_token_id": tokenizer.token_to_id("<|image_pad|>"),
        "video_token_id": tokenizer.token_to_id("<|video_pad|>"),
        "vision_start_token_id": tokenizer.token_to_id("<|vision_start|>"),
        "vision_end_token_id": tokenizer.token_to_id("<|vision_end|>"),
        "vision_config": {
            "depth": VISION_LAYERS,
            "embed_dim": VISION_WIDTH,
            "hidden_size": WIDTH,
            "mlp_ratio": 4,
            "num_heads": VISION_HEADS,
            "in_chans": 3,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "spatial_patch_size": 14,
            "temporal_patch_size": 2,
        },
    }


@dataclass(frozen=True)
class Base:
    """A model with what its input is made with; ``letters`` are the ids of the tokens A-Z, which the words of our prompts are made of."""

    model: RewardModel
    prompts: Prompts
    letters: frozenset[int]


def create(folder: Path, seed: int) -> Base:
    """A model with random weights; its configuration and tokenizer are written to ``folder``.

    Raises:
        PromptError: the hpsv3 package, whose wording is used, is absent.

    """
    tokenizer = build_tokenizer(read_wording())
    tokenizer.save(str(folder / TOKENIZER))
    tokenizer.add_special_tokens([REWARD_TOKEN])  # is in no file of Qwen2-VL, but counts for the size of the table
    (folder / CONFIG).write_text(json.dumps(config_fields(tokenizer), indent=2) + "\n")
    torch.manual_seed(seed)
    return _assemble(folder)


def load(folder: Path) -> Base:
    """The model that ``create`` began and training saved; raises CheckpointError where the weights are absent or of another size."""
    base = _assemble(folder)
    load_checkpoint(base.model, folder / WEIGHTS)
    return base


def _assemble(folder: Path) -> Base:
    tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
    prompts = Prompts(tokenizer, read_wording())
    letters = frozenset(number for token, number in tokenizer.get_vocab().items() if token in set(string.ascii_uppercase))
    return Base(RewardModel(read_config(Files(folder / WEIGHTS, folder, "", ""), prompts)), prompts, letters)
