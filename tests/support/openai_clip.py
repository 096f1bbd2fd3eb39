"""A small CLIP of OpenAI's package with random weights, and the same one in the format of transformers."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import CLIPConfig, CLIPModel

WIDTH, LAYERS, PATCH, SIZE, DIM = 64, 2, 8, 32, 16
VOCABULARY, CONTEXT = 49408, 77
BLOCK = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}


def small_clip(clip: Any) -> Any:  # noqa: ANN401 # a package that is not installed here has no types
    """OpenAI's class, biased so that cosines are above 0."""
    torch.manual_seed(0)
    model = clip.model.CLIP(DIM, SIZE, LAYERS, WIDTH, PATCH, CONTEXT, VOCABULARY, WIDTH, WIDTH // 64, LAYERS).eval()
    with torch.no_grad():  # its own initialisation leaves these as torch.empty gives them
        for parameter in model.parameters():
            parameter.nan_to_num_(0.0)
        shared = torch.randn(WIDTH)
        for norm, projection in ((model.visual.ln_post, model.visual.proj), (model.ln_final, model.text_projection)):
            norm.bias.copy_(shared)
            projection.copy_(torch.randn(WIDTH, DIM, generator=torch.Generator().manual_seed(1)) / 8)
    return model


def as_transformers(clip: Any, model: Any, folder: Path) -> Path:  # noqa: ANN401
    """Write config, weights and OpenAI's own vocabulary."""
    tower = {"hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_hidden_layers": LAYERS}
    heads = {"num_attention_heads": WIDTH // 64, "hidden_act": "quick_gelu"}
    ids = {"vocab_size": VOCABULARY, "bos_token_id": VOCABULARY - 2, "eos_token_id": VOCABULARY - 1}
    config = CLIPConfig(
        text_config=tower | heads | ids | {"max_position_embeddings": CONTEXT},
        vision_config=tower | heads | {"image_size": SIZE, "patch_size": PATCH},
        projection_dim=DIM,
    )
    other: Any = CLIPModel(config)
    missing, unexpected = other.load_state_dict(_renamed(model.state_dict()), strict=False)
    assert not unexpected and all("position_ids" in name for name in missing), (missing, unexpected)
    other.save_pretrained(folder)
    _write_vocabulary(clip, folder)
    return folder


def _renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    whole = {
        "text_model.embeddings.token_embedding.weight": state["token_embedding.weight"],
        "text_model.embeddings.position_embedding.weight": state["positional_embedding"],
        "text_projection.weight": state["text_projection"].T.contiguous(),
        "vision_model.embeddings.class_embedding": state["visual.class_embedding"],
        "vision_model.embeddings.patch_embedding.weight": state["visual.conv1.weight"],
        "vision_model.embeddings.position_embedding.weight": state["visual.positional_embedding"],
        "visual_projection.weight": state["visual.proj"].T.contiguous(),
        "logit_scale": state["logit_scale"],
    }
    for kind in ("weight", "bias"):
        whole[f"text_model.final_layer_norm.{kind}"] = state[f"ln_final.{kind}"]
        whole[f"vision_model.pre_layrnorm.{kind}"] = state[f"visual.ln_pre.{kind}"]
        whole[f"vision_model.post_layernorm.{kind}"] = state[f"visual.ln_post.{kind}"]
        for index in range(LAYERS):
            for theirs, ours in (("transformer", "text_model"), ("visual.transformer", "vision_model")):
                block, layer = f"{theirs}.resblocks.{index}", f"{ours}.encoder.layers.{index}"
                for name, new in BLOCK.items():
                    whole[f"{layer}.{new}.{kind}"] = state[f"{block}.{name}.{kind}"]
                parts = state[f"{block}.attn.in_proj_{kind}"].chunk(3)
                for name, part in zip(("q_proj", "k_proj", "v_proj"), parts, strict=True):
                    whole[f"{layer}.self_attn.{name}.{kind}"] = part.contiguous()
    return whole


def _write_vocabulary(clip: Any, folder: Path) -> None:  # noqa: ANN401
    tokenizer = clip.simple_tokenizer.SimpleTokenizer()
    (folder / "vocab.json").write_text(json.dumps(tokenizer.encoder), encoding="utf-8")
    with gzip.open(clip.simple_tokenizer.default_bpe(), "rt", encoding="utf-8") as file:
        merges = file.read().split("\n")[1 : VOCABULARY - 256 * 2 - 2 + 1]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
