"""Runs in the hpsv3 package's own environment.

A tiny checkpoint made by the package's builder, and the package's scores.
    .venv-hpsv3/bin/python tests/support/oracle/hpsv3_package.py FOLDER

FOLDER holds a tokenizer.json of Qwen2-VL's kind. It then has the checkpoint as well (HPSv3.safetensors beside
config.json and what else a Qwen2-VL folder has), the pictures, and scores.json: a list of batches, each with the names
of its images, its prompts, and its scores, [mu, log sigma] each.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
import yaml
from PIL import Image
from tokenizers import Tokenizer

os.environ.update({"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"})
sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "src"))

from varl.services.hpsv3.package_engine import (
    PackageEngine,
    build_package,
    declare_torchvision_operators,
    package_config,
)
from varl.services.hpsv3.settings import HPSv3Settings

declare_torchvision_operators()  # before transformers imports torchvision

transformers: Any = importlib.import_module("transformers")  # of another version than the types are checked with

SIZES = ((64, 64), (512, 512), (448, 448), (768, 512), (720, 1280), (30, 300), (900, 45), (101, 333))  # height, width
PROMPTS = (
    "",
    "a smooth colour gradient",
    "a photo of a red cat on a blue sofa, film grain, " * 12,
    "Ein Schloß im Nebel,\n  “twice {braced}” — 第三张图 100% e\u0301",
    " leading and trailing ",
    "{text_prompt}",
    "END\n\nPlease provide",
    "cat",
)
BATCHES = ((0,), (1,), (2, 2), (0, 1), (3, 4, 5, 6), (7, 3), (0, 1, 2, 3, 4, 5, 6, 7))
# The template of Qwen2-VL's processor, for messages of one image and one text.
TEMPLATE = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}<|im_start|>system\n"
    "You are a helpful assistant.<|im_end|>\n{% endif %}<|im_start|>{{ message['role'] }}\n"
    "{% for content in message['content'] %}{% if content['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ content['text'] }}"
    "{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def main(folder: Path) -> None:
    """Build and score."""
    torch.set_num_threads(1)
    save_base(folder)
    save_weights(folder)
    for index, size in enumerate(SIZES):
        pixels = np.random.default_rng(index).integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    settings = {"checkpoint": folder, "engine": "package", "dtype": "float32", "device": "cpu"}
    engine = build_package(HPSv3Settings.model_validate(settings))
    (folder / "scores.json").write_text(json.dumps([score(engine, folder, batch) for batch in BATCHES]))


def score(engine: PackageEngine, folder: Path, batch: tuple[int, ...]) -> dict[str, Any]:
    """One call of the package."""
    images = [f"{index}.png" for index in batch]
    prompts = [PROMPTS[index] for index in batch]
    items = [
        engine.prepare(np.asarray(Image.open(folder / image)), prompt)
        for image, prompt in zip(images, prompts, strict=True)
    ]
    return {
        "images": images,
        "prompts": prompts,
        "scores": [[found.mu, found.log_sigma] for found in engine.score(items)],
    }


def save_base(folder: Path) -> None:
    """A tiny Qwen2-VL with its processor."""
    bare = Tokenizer.from_file(str(folder / "tokenizer.json"))
    controls = [token.content for token in bare.get_added_tokens_decoder().values()]
    tokenizer = transformers.Qwen2TokenizerFast(
        tokenizer_object=bare, unk_token=None, eos_token="<|im_end|>", pad_token="<|endoftext|>", padding_side="right"
    )
    tokenizer.add_special_tokens({"additional_special_tokens": controls})
    transformers.Qwen2VLProcessor(
        image_processor=transformers.Qwen2VLImageProcessor(), tokenizer=tokenizer, chat_template=TEMPLATE
    ).save_pretrained(folder)
    torch.manual_seed(0)
    model = transformers.Qwen2VLForConditionalGeneration(tiny_config(tokenizer))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.08)  # the usual 0.02 gives scores that hardly differ
            else:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)


def tiny_config(tokenizer: Any) -> Any:  # noqa: ANN401
    """Two layers of 64 in both halves."""
    vision = {
        "depth": 2,
        "embed_dim": 64,
        "hidden_size": 64,
        "mlp_ratio": 2,
        "num_heads": 4,
        "patch_size": 14,
        "in_channels": 3,
    }
    text = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    tokens = {
        name: tokenizer.convert_tokens_to_ids(f"<|{mark}|>")
        for name, mark in (
            ("image_token_id", "image_pad"),
            ("video_token_id", "video_pad"),
            ("vision_start_token_id", "vision_start"),
            ("vision_end_token_id", "vision_end"),
            ("eos_token_id", "im_end"),
        )
    }
    rope = {"rope_theta": 1e6, "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]}}
    return transformers.Qwen2VLConfig(
        vocab_size=len(tokenizer), vision_config=vision, bos_token_id=None, **text, **tokens, **rope
    )


def save_weights(folder: Path) -> None:
    """The package's own model, head and reward token included, under the package's own names."""
    import hpsv3
    from hpsv3.train import create_model_and_processor
    from hpsv3.utils.parser import DataConfig, ModelConfig, PEFTLoraConfig, TrainingConfig, parse_args_with_yaml

    bundled = Path(hpsv3.__file__).parent / "config" / "HPSv3_7B.yaml"
    path = folder / "build.yaml"
    path.write_text(yaml.safe_dump(package_config(bundled.read_text(), str(folder), "float32")))
    kinds = (DataConfig, TrainingConfig, ModelConfig, PEFTLoraConfig)
    (_, training, model_config, lora), _ = parse_args_with_yaml(kinds, str(path), is_train=False)
    torch.manual_seed(1)
    model, _, _ = create_model_and_processor(model_config, lora, training)
    with torch.no_grad():
        for parameter in model.rm_head.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 1.0 / parameter.shape[1] ** 0.5)
    tensors = {name: tensor.contiguous().clone() for name, tensor in model.state_dict().items()}
    safetensors.torch.save_file(tensors, folder / "HPSv3.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
