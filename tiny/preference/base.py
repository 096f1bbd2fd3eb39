"""What the tiny preference model starts from.

Its size, its tokenizer, random weights, and the wording that it shares with HPSv3.
"""

from __future__ import annotations

import json
import string
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer

from varl.services.hpsv3.files import CONFIG, TOKENIZER, WEIGHTS, Files
from varl.services.hpsv3.model import RewardModel, load_checkpoint
from varl.services.hpsv3.native import read_config
from varl.services.hpsv3.prompt import REWARD_TOKEN, Prompts, Wording, read_wording
from varl.tiny.preference.looking import look_for_alike, look_nearby
from varl.tiny.preference.tokens import build_tokenizer
from varl.tiny.render import COLOURS, OBJECTS

WIDTH, LAYERS, HEADS = 128, 4, 4
VISION_WIDTH, VISION_LAYERS, VISION_HEADS = 128, 4, 4


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
        "rope_theta": 1e6,
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
            "mlp_ratio": 2,
            "num_heads": VISION_HEADS,
            "in_chans": 3,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "spatial_patch_size": 14,
            "temporal_patch_size": 2,
        },
    }


@dataclass(frozen=True)
class Vocabulary:
    """Token ids of what our prompts are made of, A-Z, colours and objects in the renderer's order.

    ``blank``, a space, is no letter's.
    """

    letters: tuple[int, ...]
    colours: tuple[int, ...]
    things: tuple[int, ...]
    blank: int

    @property
    def asked(self) -> frozenset[int]:
        """Ids of the tokens that a picture can show or not."""
        return frozenset((*self.letters, *self.colours, *self.things))


@dataclass(frozen=True)
class Base:
    """A model with what its input is made with."""

    model: RewardModel
    prompts: Prompts
    short_prompts: Prompts  # the wording's last line alone, for training that need not pay for the others
    vocabulary: Vocabulary


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
    base = _assemble(folder)
    look_nearby(base.model)
    look_for_alike(base.model)
    return base


def load(folder: Path) -> Base:
    """The model that ``create`` began and training saved.

    Raises CheckpointError where the weights are absent or of another size.
    """
    base = _assemble(folder)
    load_checkpoint(base.model, folder / WEIGHTS)
    return base


def _assemble(folder: Path) -> Base:
    tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
    wording = read_wording()
    prompts, short = Prompts(tokenizer, wording), Prompts(tokenizer, last_line(wording))
    model = RewardModel(read_config(Files(folder / WEIGHTS, folder, "", ""), prompts))
    return Base(model, prompts, short, _vocabulary(tokenizer))


def last_line(wording: Wording) -> Wording:
    """The line that the prompt stands in and what follows it."""
    return Wording(
        wording.instruction[wording.instruction.rindex("\n", 0, wording.instruction.index("{text_prompt}")) :],
        wording.ending,
    )


def _vocabulary(tokenizer: Tokenizer) -> Vocabulary:
    def ids(texts: Iterable[str]) -> tuple[int, ...]:
        return tuple(tokenizer.encode(text, add_special_tokens=False).ids[0] for text in texts)

    colours, things = (ids(f" {word}" for word in group) for group in (COLOURS, OBJECTS))
    return Vocabulary(ids(string.ascii_uppercase), colours, things, ids(" ")[0])
