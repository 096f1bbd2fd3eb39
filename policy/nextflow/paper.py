"""NextFlow at the paper's size: 7B, 256 to 1024 pixels, every aspect ratio (arXiv 2601.02204, section 2, Table 14).

The paper leaves some numbers open; each is marked, with where ours is from.
"""

from __future__ import annotations

from typing import Literal

from varl.policy.nextflow.config import NextFlowConfig, TokenizerConfig, TransformerConfig
from varl.policy.schedule import BASE_SCALE, SQUARE_SCALES, base_for_aspect

Stage = Literal[256, 512, 1024]  # side of the square image of a training stage's area, in pixels
STAGE_SCALES: dict[Stage, int] = {256: 12, 512: 16, 1024: 18}

# Qwen2.5-VL-7B's language model. Open: how the head is split among the axes, and C, here the finest square grid's side,
# so that its neighbours are one position apart.
QWEN_7B = TransformerConfig(
    text="qwen",
    text_vocab=152_064,
    dim=3584,
    depth=28,
    heads=28,
    kv_heads=4,
    mlp_dim=18_944,
    rope_theta=1_000_000.0,
    rope_spectrum="mrope_interleaved",
    rope_sections=(16, 24, 24),
    rope_range=64.0,
    qk_norm=False,
)

# Open: all of it; the codebook and the convolutions are TokenFlow's. The paper's semantic encoder is SigLIP2, which is
# needed to encode pictures, not to generate them: a convolutional one of the same stride stands in its place.
TOKENFLOW = TokenizerConfig(
    codes=32_768,
    semantic_dim=32,
    pixel_dim=8,
    stem=1,
    encoder=((128, 2), (128, 2), (256, 2), (256, 2), (512, 2)),
    decoder=((1024, 4), (512, 4), (512, 4), (256, 4), (256, 4)),
    semantic_encoder=((64, 1), (64, 1), (128, 1), (128, 1), (256, 1)),
)


def paper_config(
    stage: Stage = 1024,
    height: int = 1,
    width: int = 1,
    transformer: TransformerConfig = QWEN_7B,
    tokenizer: TokenizerConfig = TOKENFLOW,
) -> NextFlowConfig:
    """A model of a stage's area whose images have nearly the aspect ratio height:width, from 1:4 to 4:1.

    Weights of one stage fit every other stage and aspect ratio.

    Raises:
        ValueError: the stage is none of the paper's, or the ratio lies outside 1:4 … 4:1.
    """
    if stage not in STAGE_SCALES:
        raise ValueError(f"stage must be one of {', '.join(map(str, STAGE_SCALES))}, got {stage}")
    return NextFlowConfig(
        tokenizer=tokenizer,
        transformer=transformer,
        scales=SQUARE_SCALES[: STAGE_SCALES[stage]],
        base_scale=BASE_SCALE,
        base_grid=base_for_aspect(height, width),
        scale_rows=len(SQUARE_SCALES),
    )
