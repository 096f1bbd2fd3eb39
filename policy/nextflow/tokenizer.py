"""The vision tokenizer: a CNN pixel branch and a semantic branch into one dual codebook, and decoders for both."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from varl.policy.base import Grid
from varl.policy.nextflow.config import TokenizerConfig
from varl.policy.nextflow.quantizer import DualQuantizer, Encoded, SelfCorrection
from varl.policy.schedule import split_scales

Levels = Sequence[tuple[int, int]]


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with group normalisation around a skip connection."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.GroupNorm(8, channels), nn.SiLU(), nn.Conv2d(channels, channels, 3, padding=1),
            nn.GroupNorm(8, channels), nn.SiLU(), nn.Conv2d(channels, channels, 3, padding=1),
        )  # fmt: skip
        nn.init.zeros_(self.body[5].weight)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to the same."""
        return x + self.body(x)  # type: ignore[no-any-return]


def build_encoder(levels: Levels, stem: int, out: int) -> nn.Sequential:
    """Images [B, 3, H, W] to features [B, out, H / stride, W / stride].

    Each level after the first halves the resolution.
    """
    layers: list[nn.Module] = [nn.Conv2d(3, levels[0][0], stem, stride=stem)]
    for i, (channels, blocks) in enumerate(levels):
        if i:
            layers.append(nn.Conv2d(levels[i - 1][0], channels, 2, stride=2))
        layers.extend(ResidualBlock(channels) for _ in range(blocks))
    return nn.Sequential(*layers, nn.GroupNorm(8, levels[-1][0]), nn.SiLU(), nn.Conv2d(levels[-1][0], out, 1))


def build_decoder(levels: Levels, stem: int, source: int) -> nn.Sequential:
    """Features [B, source, h, w] to images [B, 3, h * stride, w * stride].

    Each level after the first doubles the resolution.
    """
    layers: list[nn.Module] = [nn.Conv2d(source, levels[0][0], 3, padding=1)]
    for i, (channels, blocks) in enumerate(levels):
        if i:
            layers += [nn.Conv2d(levels[i - 1][0], 4 * channels, 1), nn.PixelShuffle(2)]
        layers.extend(ResidualBlock(channels) for _ in range(blocks))
    last = levels[-1][0]
    return nn.Sequential(
        *layers, nn.GroupNorm(8, last), nn.SiLU(), nn.Conv2d(last, 3 * stem * stem, 3, padding=1), nn.PixelShuffle(stem)
    )


class SemanticEncoder(nn.Module):
    """The tiny model's semantic teacher: per-cell features that tell which letter a cell belongs to.

    It is frozen after its own training. It stands where NextFlow has SigLIP2: it says what is in a cell, not how it
    looks.
    """

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.body = build_encoder(config.semantic_encoder, config.stem, config.semantic_dim)
        self.norm = nn.GroupNorm(1, config.semantic_dim, affine=False)
        self.classify = nn.Conv2d(config.semantic_dim, config.semantic_classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Features float [B, semantic_dim, h, w] of images [B, 3, H, W] in [-1, 1], of unit scale."""
        return self.norm(self.body(images))  # type: ignore[no-any-return]


class Tokenizer(nn.Module):
    """Images to code indices over all scales, and back."""

    def __init__(self, config: TokenizerConfig, grids: Sequence[Grid]) -> None:
        super().__init__()
        self.grids = tuple(grids)
        width = config.semantic_dim + config.pixel_dim
        self.semantic_encoder = SemanticEncoder(config)
        self.pixel_encoder = build_encoder(config.encoder, config.stem, config.pixel_dim)
        self.quantizer = DualQuantizer(config)
        self.semantic_decoder = nn.Sequential(
            nn.Conv2d(config.semantic_dim, 64, 1), nn.SiLU(), nn.Conv2d(64, config.semantic_dim, 1)
        )
        self.pixel_decoder = build_decoder(config.decoder, config.stem, width)

    def features(self, images: Tensor) -> Tensor:
        """Both branches side by side, float [B, semantic_dim + pixel_dim, h, w], of images [B, 3, H, W] in [-1, 1]."""
        with torch.no_grad():
            semantic = self.semantic_encoder(images)
        return torch.cat([semantic, self.pixel_encoder(images)], dim=1)

    def encode(self, images: Tensor, noise: SelfCorrection | None = None) -> Encoded:
        """Code indices per scale of images [B, 3, H, W] in [-1, 1]."""
        return self.quantizer.encode(self.features(images), self.grids, noise)

    def decode_features(self, quantized: Tensor) -> Tensor:
        """Images [B, 3, H, W], about [-1, 1], of summed codes [B, C, h, w]."""
        return self.pixel_decoder(quantized)  # type: ignore[no-any-return]

    def decode(self, tokens: Tensor) -> Tensor:
        """Images float [B, 3, H, W] in [-1, 1] of token sequences int64 [B, n], whole or of the first scales alone."""
        return self.decode_features(self.quantizer.accumulate(split_scales(tokens, self.grids), self.grids[-1])).clamp(
            -1, 1
        )
