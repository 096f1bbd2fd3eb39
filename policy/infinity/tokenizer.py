"""The autoencoder between images and bits.

Facts: FoundationVision/Infinity, infinity/models/bsq_vae/flux_vqgan.py. Parameters are named as there, without the
".conv" and ".norm" that its newer files put after a layer's name.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from varl.policy.base import Grid
from varl.policy.infinity.config import TokenizerConfig
from varl.policy.infinity.quantizer import Quantizer


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with group normalisation around a skip connection."""

    def __init__(self, source: int, out: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = _norm(source), nn.Conv2d(source, out, 3, padding=1)
        self.norm2, self.conv2 = _norm(out), nn.Conv2d(out, out, 3, padding=1)
        self.nin_shortcut = nn.Conv2d(source, out, 1) if source != out else None

    def forward(self, x: Tensor) -> Tensor:
        """[B, source, H, W] to [B, out, H, W]."""
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return h + (x if self.nin_shortcut is None else self.nin_shortcut(x))  # type: ignore[no-any-return]


class Middle(nn.Module):
    """Two blocks at the coarsest level."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block_1, self.block_2 = ResidualBlock(channels, channels), ResidualBlock(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, h, w] to the same."""
        return self.block_2(self.block_1(x))  # type: ignore[no-any-return]


class Downsample(nn.Module):
    """Half the resolution: a convolution of stride 2 with zeros on the right and below only."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to [B, C, H / 2, W / 2]."""
        return self.conv(F.pad(x, (0, 1, 0, 1)))  # type: ignore[no-any-return]


class Upsample(nn.Module):
    """Twice the resolution: nearest neighbours and a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to [B, C, 2 H, 2 W]."""
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))  # type: ignore[no-any-return]


class Level(nn.Module):
    """Blocks of one resolution and, but for the last one, the way to the next."""

    def __init__(self, source: int, out: int, blocks: int) -> None:
        super().__init__()
        self.block = nn.ModuleList(ResidualBlock(source if i == 0 else out, out) for i in range(blocks))
        self.downsample: Downsample | None = None
        self.upsample: Upsample | None = None

    def forward(self, x: Tensor) -> Tensor:
        """[B, source, H, W] to [B, out, ...], resampled where the level does that."""
        for block in self.block:
            x = block(x)
        for resample in (self.downsample, self.upsample):
            x = x if resample is None else resample(x)
        return x


class Encoder(nn.Module):
    """Images [B, 3, H, W] in [-1, 1] to features [B, bits, H / stride, W / stride], before quantisation."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        widths = [config.channels * multiplier for multiplier in config.multipliers]
        self.conv_in = nn.Conv2d(3, config.channels, 3, padding=1)
        sources = [config.channels, *widths[:-1]]
        levels = [Level(source, out, config.blocks) for source, out in zip(sources, widths, strict=True)]
        for level, width in zip(levels[:-1], widths, strict=False):
            level.downsample = Downsample(width)
        self.down = nn.ModuleList(levels)
        self.mid, self.norm_out = Middle(widths[-1]), _norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], config.bits, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """As the class says."""
        x = self.conv_in(x)
        for level in self.down:
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(self.mid(x))))  # type: ignore[no-any-return]


class Decoder(nn.Module):
    """Summed codes [B, bits, h, w] to images [B, 3, h * stride, w * stride], about [-1, 1]; ``up[0]`` is the finest."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        widths = [config.channels * multiplier for multiplier in config.multipliers]
        self.conv_in, self.mid = nn.Conv2d(config.bits, widths[-1], 3, padding=1), Middle(widths[-1])
        sources = [*widths[1:], widths[-1]]
        levels = [Level(source, out, config.blocks + 1) for source, out in zip(sources, widths, strict=True)]
        for level, width in zip(levels[1:], widths[1:], strict=True):
            level.upsample = Upsample(width)
        self.up = nn.ModuleList(levels)
        self.norm_out, self.conv_out = _norm(widths[0]), nn.Conv2d(widths[0], 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """As the class says."""
        x = self.mid(self.conv_in(x))
        for level in reversed(self.up):
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(x)))  # type: ignore[no-any-return]


class Tokenizer(nn.Module):
    """Images to tokens over all scales, and back; float32."""

    def __init__(self, config: TokenizerConfig, grids: Sequence[Grid]) -> None:
        super().__init__()
        self.encoder, self.decoder = Encoder(config), Decoder(config)
        self.quantizer = Quantizer(config, grids)

    def encode(self, images: Tensor) -> Tensor:
        """Tokens int64 [B, n] of images float [B, 3, H, W], RGB, in [-1, 1]."""
        return self.quantizer.encode(self.encoder(images))

    def decode(self, tokens: Tensor) -> Tensor:
        """Images float [B, 3, H, W], RGB, in [-1, 1], of token sequences int64 [B, n], whole or of the first scales.

        One image at a time: at 1024 pixels a side the finest level takes half a gigabyte a tensor and image.
        """
        canvas = self.quantizer.accumulate(tokens)
        return torch.cat([self.decoder(one) for one in canvas.chunk(len(canvas))]).clamp(-1, 1)


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, channels, eps=1e-6)
