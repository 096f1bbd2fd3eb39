"""A tiny random HPSv3 checkpoint in the real format, pictures, and the service as a subprocess."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from tests.support.ocr_builders import ENVIRONMENT
from tests.support.paths import ROOT
from varl.services.hpsv3.files import CONFIG, TOKENIZER, WEIGHTS, Files
from varl.services.hpsv3.model import RewardModel, save_checkpoint
from varl.services.hpsv3.native import NativeEngine, build_native, read_config
from varl.services.hpsv3.prompt import Prompts, read_wording
from varl.services.hpsv3.settings import HPSv3Settings
from varl.services.serving.scoring import Pixels
from varl.tiny.preference.tokens import CONTROLS

# Qwen2's: contractions, words with at most one sign before them, single digits, runs of signs, line breaks, spaces.
_PIECES = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def build_tokenizer(vocabulary: int = 1500) -> Tokenizer:
    """Byte-level BPE of at most ``vocabulary`` tokens, then CONTROLS.

    The reward token is not among them, as in Qwen2-VL's files.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(_PIECES), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=[], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([read_wording().text("a photo of a red cat on a blue sofa")] * 2, trainer)
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in CONTROLS])
    return tokenizer


def build_checkpoint(folder: Path, seed: int = 0) -> Path:
    """A folder as ``--checkpoint`` takes it.

    Random weights wide enough that scores differ between images and prompts.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer()
    tokenizer.save(str(folder / TOKENIZER))
    (folder / CONFIG).write_text(json.dumps(_config(tokenizer)))
    prompts = Prompts(tokenizer, read_wording())
    torch.manual_seed(seed)
    model = RewardModel(read_config(Files(folder / WEIGHTS, folder, "", ""), prompts))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 1 / parameter.shape[1] ** 0.5 if name.startswith("rm_head") else 0.08)
    save_checkpoint(model, folder / WEIGHTS)
    return folder


def _config(tokenizer: Tokenizer) -> dict[str, object]:
    """As Qwen2-VL's own config.json is laid out.

    The text half's numbers at the top, the table larger than the tokenizer.
    """
    return {
        "model_type": "qwen2_vl",
        "vocab_size": tokenizer.get_vocab_size() + 64,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
        "tie_word_embeddings": False,
        "image_token_id": tokenizer.token_to_id("<|image_pad|>"),
        "bos_token_id": None,
        "eos_token_id": None,
        "vision_config": {
            "depth": 2,
            "embed_dim": 64,
            "hidden_size": 64,
            "mlp_ratio": 2,
            "num_heads": 4,
            "in_chans": 3,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "spatial_patch_size": 14,
            "temporal_patch_size": 2,
        },
    }


def settings_for(folder: Path, **changes: object) -> HPSv3Settings:
    """Settings of a service on the CPU in float32."""
    return HPSv3Settings.model_validate({"checkpoint": folder, "device": "cpu", "dtype": "float32", **changes})


def build_engine(folder: Path, **changes: object) -> NativeEngine:
    """The native engine on a checkpoint."""
    return build_native(settings_for(folder, **changes))


def noise(height: int, width: int, seed: int = 0) -> Pixels:
    """uint8 [height, width, 3], every value equally likely."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@dataclass(frozen=True)
class HPSv3Process:
    """A running service: where it listens."""

    http: str
    grpc: str


@contextmanager
def running(folder: Path, *flags: str, python: str = sys.executable) -> Iterator[HPSv3Process]:
    """A service on the CPU in float32 that is ready; killed at the end."""
    command = [python, "-m", "varl.services.hpsv3", "--http-port", "0", "--grpc-port", "0", "--checkpoint", str(folder)]
    command += ["--device", "cpu", "--dtype", "float32", *flags]
    process = subprocess.Popen(
        command, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        ready = next(
            (json.loads(line) for line in process.stdout if line.startswith("{")), None
        )  # the package prints as well
        if ready is None:
            raise AssertionError(f"the service ended with {process.wait()}: {process.communicate()[1]}")
        yield HPSv3Process(f"http://127.0.0.1:{ready['http_port']}", f"127.0.0.1:{ready['grpc_port']}")
    finally:
        process.kill()
        process.communicate()
