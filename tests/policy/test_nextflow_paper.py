"""The paper's size: stages, aspect ratios, and weights that fit all of them."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest
import torch

from varl.policy.base import cells
from varl.policy.nextflow import NextFlowConfig, NextFlowPolicy, build
from varl.policy.nextflow.config import TokenizerConfig, TransformerConfig
from varl.policy.nextflow.paper import STAGE_SCALES, Stage, paper_config
from varl.policy.nextflow.transformer import NextFlowTransformer
from varl.policy.schedule import PAPER_BASES

SMALL = TransformerConfig(dim=32, depth=1, heads=2, kv_heads=1, mlp_dim=32, rope_sections=(2, 3, 3))
SMALL_TOKENIZER = TokenizerConfig(
    codes=32, encoder=((8, 1), (8, 1), (8, 1)), decoder=((8, 1), (8, 1), (8, 1)), semantic_encoder=((8, 1),) * 3
)


def small(stage: Stage, height: int = 1, width: int = 1) -> NextFlowPolicy:
    return build(paper_config(stage, height, width, SMALL, SMALL_TOKENIZER))


def test_stages_are_prefixes_of_the_18_scales() -> None:
    grids = {stage: paper_config(stage).grids for stage in STAGE_SCALES}
    assert [len(found) for found in grids.values()] == [12, 16, 18]
    assert [found[-1] for found in grids.values()] == [(16, 16), (32, 32), (64, 64)]
    assert all(found == grids[1024][: len(found)] for found in grids.values())
    assert [sum(cells(found)) for found in grids.values()] == [900, 3684, 10084]
    assert [paper_config(stage).image_size for stage in STAGE_SCALES] == [(side, side) for side in STAGE_SCALES]


def test_every_aspect_ratio_of_the_paper_has_its_row() -> None:
    for short, long in PAPER_BASES.values():
        wide, tall = paper_config(1024, short, long), paper_config(1024, long, short)
        assert wide.image_size == tall.image_size[::-1]
        assert wide.image_size[0] * wide.image_size[1] == pytest.approx(1024**2, rel=0.1)
        assert len(wide.grids) == 18 and wide.grids[0] == (1, 1)
    assert paper_config(1024, 1, 4).grids[-1] == (32, 128)  # 512 x 2048, as printed


def test_a_stage_or_ratio_outside_the_papers_is_refused() -> None:
    with pytest.raises(ValueError, match="stage must be one of 256, 512, 1024"):
        paper_config(cast("Stage", 768))
    with pytest.raises(ValueError, match="aspect ratio"):
        paper_config(1024, 1, 5)
    with pytest.raises(ValueError, match="scale_rows"):
        NextFlowConfig(scale_rows=2)


def test_weights_of_one_stage_fit_the_others(tmp_path: Path) -> None:
    first, second = small(256), small(512, 3, 4)
    first.save_weights(str(tmp_path / "weights.safetensors"))
    second.load_weights(str(tmp_path / "weights.safetensors"))
    assert torch.equal(first.module.scale_embedding.weight, second.module.scale_embedding.weight)
    first_count, second_count = (dict(one.module.named_buffers())["scale_count"] for one in (first, second))
    assert not torch.equal(first_count, second_count)  # which tells the resolution


def test_the_7b_model_has_qwens_sizes() -> None:
    with torch.device("meta"):
        module = NextFlowTransformer(paper_config())
    parameters = {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}
    assert parameters["embed_tokens.weight"] == (152_064 + 3, 3584)
    assert parameters["lm_head.weight"] == (152_064 + 3 + 32_768, 3584)
    assert parameters["layers.27.self_attn.k_proj.bias"] == (512,)
    assert parameters["layers.0.gate_proj.weight"] == (18_944, 3584)
    assert parameters["scale_embedding.weight"] == (18, 3584)
    assert not any("q_norm" in name for name in parameters)
