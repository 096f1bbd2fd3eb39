"""Sizes of a NextFlow model, read from and written to the config.json of a model directory."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from varl.policy.base import Grid
from varl.policy.model_config import Depth, Factor, Frozen, ModelConfig, Size
from varl.policy.schedule import scale_schedule

BYTES = 256
Level = tuple[Size, Annotated[int, Field(ge=0, le=1024)]]  # channels, residual blocks


class TokenizerConfig(Frozen):
    """Multi-scale VQ tokenizer: a semantic and a pixel codebook with one shared index (arXiv 2601.02204, section 2)."""

    codes: Size = 512  # entries of the shared index; TokenFlow releases 32,768
    semantic_dim: Size = 8  # TokenFlow: 32
    pixel_dim: Size = 16  # TokenFlow: 8
    pixel_weight: Factor = 1.0  # d = d_semantic + pixel_weight * d_pixel
    stem: Depth = 4  # pixels a side that the first convolution folds into one cell
    encoder: tuple[Level, ...] = ((64, 1), (192, 2))  # (channels, residual blocks) per level, fine to coarse
    decoder: tuple[Level, ...] = ((256, 2), (128, 2))  # per level, coarse to fine
    semantic_encoder: tuple[Level, ...] = ((64, 1), (128, 2))
    semantic_classes: Size = 27  # what the semantic teacher tells apart in a cell: no ink, or one of A-Z

    @property
    def stride(self) -> int:
        """Pixels a side of one cell of the finest grid."""
        return int(self.stem * 2 ** (len(self.encoder) - 1))


Text = Literal["bytes", "qwen"]  # UTF-8, or the model folder's tokenizer.json
Spectrum = Literal["per_axis", "mrope", "mrope_interleaved"]  # varl.policy.nextflow.rope


class TransformerConfig(Frozen):
    """Decoder-only transformer over text tokens and visual codes.

    Names and shapes follow Qwen2.5 (arXiv 2601.02204, section 2). The defaults are a tiny model's;
    varl.policy.nextflow.paper has those of 7B.
    """

    dim: Size = 256
    depth: Depth = 6
    heads: Depth = 4
    kv_heads: Depth = 4
    mlp_dim: Size = 680
    rope_theta: Factor = 100.0  # the lowest frequency is about 1 / rope_theta; a tiny model's positions run to about 50
    rope_spectrum: Spectrum = "per_axis"  # Qwen's weights want one of the two others
    rope_range: Factor = (
        16.0  # the constant C of the spatial positions C / sqrt(h w) * (i + 1/2); not given by the paper
    )
    rope_sections: tuple[Size, Size, Size] = (
        8,
        12,
        12,
    )  # rotation pairs for (scale, row, column), in Qwen2.5-VL's proportions 16:24:24
    qkv_bias: bool = True
    qk_norm: bool = True
    text: Text = "bytes"
    text_vocab: Size = 256  # rows of the embedding that text has, <boi>, <eoi> and padding not counted

    @model_validator(mode="after")
    def _heads_divide(self) -> TransformerConfig:
        if self.dim % self.heads or self.heads % self.kv_heads:
            raise ValueError("heads must divide dim, and kv_heads must divide heads")
        if 2 * sum(self.rope_sections) != self.dim // self.heads:
            raise ValueError(f"rope_sections must sum to half the head size {self.dim // self.heads}")
        if self.text == "bytes" and self.text_vocab != BYTES:
            raise ValueError(f"text_vocab must be {BYTES} where text is bytes, got {self.text_vocab}")
        return self


class NextFlowConfig(ModelConfig):
    """A whole model: tokenizer, transformer and the scale schedule."""

    architecture: Literal["nextflow"] = "nextflow"
    tokenizer: TokenizerConfig = TokenizerConfig()
    transformer: TransformerConfig = TransformerConfig()
    scales: tuple[Depth, ...] = (1, 2, 4, 6, 8)
    base_scale: Depth = Field(default=8, description="the entry of scales that base_grid belongs to")
    base_grid: tuple[Depth, Depth] = (8, 8)
    scale_rows: Size | None = Field(
        default=None,
        description="rows of the scale embedding, for weights that serve several resolutions; None: one a scale",
    )

    @model_validator(mode="after")
    def _every_scale_has_a_row(self) -> NextFlowConfig:
        if self.scale_rows is not None and self.scale_rows < len(self.scales):
            raise ValueError(f"scale_rows must be at least the {len(self.scales)} scales, got {self.scale_rows}")
        return self

    @property
    def grids(self) -> tuple[Grid, ...]:
        """(height, width) of every scale, coarse to fine."""
        return scale_schedule(self.base_grid, self.scales, self.base_scale)

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of a decoded image in pixels."""
        h, w = self.grids[-1]
        return h * self.tokenizer.stride, w * self.tokenizer.stride
