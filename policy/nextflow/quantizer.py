"""Multi-scale residual quantiser with dual codebooks: a semantic and a pixel half that share one index (TokenFlow)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from varl.policy.base import Grid
from varl.policy.nextflow.config import TokenizerConfig


@dataclass(frozen=True)
class SelfCorrection:
    """While encoding, samples a share of codes from the nearest few (arXiv 2601.02204, section 2).

    All other codes are the nearest.

    fraction: share of the tokens of every scale that are sampled, in [0, 1]; top_k: among how many nearest, >= 1;
    temperature: of the multinomial over negative squared distances, > 0 (the paper names neither; at 1.0 half of the
    tiny tokenizer's targets move).
    """

    fraction: float = 0.6
    top_k: int = 4
    temperature: float = 0.1


@dataclass(frozen=True)
class Encoded:
    """What encoding gives, per scale.

    targets: int64 [B, h, w], the nearest code of the residual at that scale: what a policy learns to predict.
    inputs: int64 [B, h, w], the code that was really subtracted; equal to targets without self-correction.
    quantized: float [B, C, H, W], the sum of all upsampled codes.
    """

    targets: list[Tensor]
    inputs: list[Tensor]
    quantized: Tensor


class DualQuantizer(nn.Module):
    """Quantizes residual features one grid after another.

    The features are averaged down to each grid and matched to a code, and the code's bicubic upsampling is subtracted.
    """

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.pixel_weight = config.pixel_weight
        self.semantic = nn.Parameter(torch.randn(config.codes, config.semantic_dim))
        self.pixel = nn.Parameter(torch.randn(config.codes, config.pixel_dim))

    def table(self) -> Tensor:
        """Both halves side by side, float [codes, semantic_dim + pixel_dim]."""
        return torch.cat([self.semantic, self.pixel], dim=1)

    def distances(self, cells: Tensor) -> Tensor:
        """Distances of cells [..., semantic_dim + pixel_dim] to all codes, float32 [..., codes].

        A distance is d_semantic + pixel_weight * d_pixel, both squared Euclidean. Computed in float32 whatever the
        caller's autocast: a product rounded to bfloat16 names other codes (arXiv 2601.02204, section 2).
        """
        with torch.autocast(cells.device.type, enabled=False):
            halves = [self.semantic.shape[1], self.pixel.shape[1]]
            semantic, pixel = cells.to(torch.float32).split_with_sizes(halves, dim=-1)
            return _squared_distance(semantic, self.semantic) + self.pixel_weight * _squared_distance(pixel, self.pixel)

    def lookup(self, indices: Tensor) -> Tensor:
        """Codes float [B, C, h, w] of indices int64 [B, h, w]."""
        return F.embedding(indices, self.table()).permute(0, 3, 1, 2)

    def encode(self, features: Tensor, grids: Sequence[Grid], noise: SelfCorrection | None = None) -> Encoded:
        """Quantise features float [B, C, H, W] scale by scale; runs in float32 whatever the caller's autocast."""
        residual, quantized = features.to(torch.float32), torch.zeros_like(features, dtype=torch.float32)
        targets, inputs = [], []
        for grid in grids:
            distances = self.distances(F.interpolate(residual, size=grid, mode="area").permute(0, 2, 3, 1))
            target = distances.argmin(-1)
            used = target if noise is None else _perturb(distances, target, noise)
            step = upsample(self.lookup(used), features.shape[-2:])
            residual, quantized = residual - step, quantized + step
            targets.append(target)
            inputs.append(used)
        return Encoded(targets, inputs, quantized)

    def accumulate(self, indices: Sequence[Tensor], size: Grid) -> Tensor:
        """Sum of codes upsampled to (H, W) = ``size``, float [B, C, H, W], of per-scale indices int64 [B, h, w]."""
        return torch.stack([upsample(self.lookup(index), size) for index in indices]).sum(0)


def upsample(codes: Tensor, size: Sequence[int]) -> Tensor:
    """Bicubic upsampling of float [B, C, h, w] to [B, C, *size], as TokenFlow does; the same size is left as it is."""
    if tuple(codes.shape[-2:]) == tuple(size):
        return codes
    return F.interpolate(codes.to(torch.float32), size=tuple(size), mode="bicubic", align_corners=False)


def _squared_distance(cells: Tensor, codes: Tensor) -> Tensor:
    codes = codes.to(torch.float32)
    return cells.pow(2).sum(-1, keepdim=True) - 2 * cells @ codes.t() + codes.pow(2).sum(1)


def _perturb(distances: Tensor, target: Tensor, noise: SelfCorrection) -> Tensor:
    near, index = distances.topk(noise.top_k, dim=-1, largest=False)
    weights = torch.softmax(-(near - near[..., :1]) / noise.temperature, dim=-1)
    choice = torch.multinomial(weights.flatten(0, -2), 1).view(*target.shape, 1)
    sampled = index.gather(-1, choice).squeeze(-1)
    return torch.where(torch.rand(target.shape, device=target.device) < noise.fraction, sampled, target)
