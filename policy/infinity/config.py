"""Sizes of an Infinity model, read from and written to the config.json of a model directory (arXiv 2412.04431)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from varl.policy.base import Grid
from varl.policy.distributions import MAX_BITS
from varl.policy.infinity.schedule import SCHEDULES
from varl.policy.model_config import Depth, Factor, Frozen, ModelConfig, Size


class TokenizerConfig(Frozen):
    """Convolutional autoencoder whose latent is quantised to signs, a bit a channel (arXiv 2412.04431, section 3.2)."""

    bits: Depth = Field(default=16, description="channels of the latent; a quarter of a token's bits with patchify")
    channels: Size = Field(default=128, ge=32, multiple_of=32, description="of the finest level")
    multipliers: tuple[Depth, ...] = Field(
        default=(1, 2, 4, 4, 4), min_length=1, description="of the channels, fine to coarse"
    )
    blocks: Depth = Field(default=2, description="residual blocks of an encoder's level; the decoder has one more")
    patchify: bool = Field(default=False, description="a token covers 2 x 2 cells of the latent")

    @model_validator(mode="after")
    def _fits_an_int64(self) -> TokenizerConfig:
        if self.bits_per_site > MAX_BITS:
            raise ValueError(f"a token may have {MAX_BITS} bits, here it has {self.bits_per_site}")
        return self

    @property
    def cells_a_side(self) -> int:
        """Cells of the latent, a side, that a token covers."""
        return 2 if self.patchify else 1

    @property
    def bits_per_site(self) -> int:
        """Bits of a token."""
        return self.bits * self.cells_a_side**2

    @property
    def stride(self) -> int:
        """Pixels a side of a token of the finest grid."""
        return int(2 ** (len(self.multipliers) - 1)) * self.cells_a_side


class TransformerConfig(Frozen):
    """Sizes of the transformer; all else is the same in every published model (arXiv 2412.04431, section 3.3)."""

    width: Size = Field(default=768)
    depth: Depth = Field(default=12)
    heads: Depth = Field(default=8)
    chunks: Depth = Field(default=4, ge=2, description="equal groups of blocks; only the names depend on it")
    pool_heads: Depth = Field(default=16, description="of the attention that pools the prompt")
    text_width: Size = Field(default=2048, description="of a row of the text encoder, flan-t5-xl")
    text_length: Size = Field(default=512, description="longest prompt, in the text encoder's tokens")
    levels: Depth = Field(default=15, description="rows of the scales' embedding")

    @model_validator(mode="after")
    def _divide(self) -> TransformerConfig:
        if self.width % self.heads or self.head_size % 4:
            raise ValueError(f"heads must divide width into multiples of 4, got width {self.width}, {self.heads} heads")
        if self.width % self.pool_heads:
            raise ValueError(f"pool_heads must divide width {self.width}, got {self.pool_heads}")
        if self.depth % self.chunks:
            raise ValueError(f"chunks must divide depth {self.depth}, got {self.chunks}")
        return self

    @property
    def head_size(self) -> int:
        """Width of a head of the self-attention."""
        return self.width // self.heads

    @property
    def hidden(self) -> int:
        """Width of the MLP's hidden layer: four times the model's, to the nearest 256."""
        return round(4 * self.width / 256) * 256


class InfinityConfig(ModelConfig):
    """A whole model, and the size and shape of its images."""

    architecture: Literal["infinity"] = "infinity"
    tokenizer: TokenizerConfig = TokenizerConfig()
    transformer: TransformerConfig = TransformerConfig()
    aspect_ratio: Factor = Field(default=1.0, description="height over width; one of the published templates")
    scales: Depth = Field(default=7, description="the first so many of the template's 13 (schedule.SIZES)")

    @model_validator(mode="after")
    def _has_a_schedule(self) -> InfinityConfig:
        if self.aspect_ratio not in SCHEDULES:
            raise ValueError(f"aspect_ratio must be one of {sorted(SCHEDULES)}, got {self.aspect_ratio}")
        longest = min(len(SCHEDULES[self.aspect_ratio]), self.transformer.levels)
        if self.scales > longest:
            raise ValueError(f"scales must be at most {longest}, got {self.scales}")
        return self

    @property
    def grids(self) -> tuple[Grid, ...]:
        """(height, width) of every scale in tokens, coarse to fine."""
        return SCHEDULES[self.aspect_ratio][: self.scales]

    @property
    def whole_grid(self) -> Grid:
        """(height, width) of the template's last scale, at 1M pixels, whatever the size of the images here."""
        return SCHEDULES[self.aspect_ratio][-1]

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of a decoded image in pixels."""
        (h, w), stride = self.grids[-1], self.tokenizer.stride
        return h * stride, w * stride


# FoundationVision/Infinity, infinity/models/infinity.py; weights of the 125M, 2B and 8B models were released.
PRESETS = {
    "125M": TransformerConfig(width=768, depth=12, heads=8, chunks=4),
    "layer16": TransformerConfig(width=1152, depth=16, heads=12, chunks=4),
    "1B": TransformerConfig(width=1536, depth=24, heads=16, chunks=4),
    "2B": TransformerConfig(width=2048, depth=32, heads=16, chunks=8),
    "8B": TransformerConfig(width=3584, depth=40, heads=28, chunks=8),
}
PATCHIFIED = TokenizerConfig(bits=14, multipliers=(1, 2, 4, 4), patchify=True)  # the 8B model's: 56 bits a token
