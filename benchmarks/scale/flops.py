"""FLOPs and memory traffic of single passes of the models, after policy/nextflow's own code.

A multiply-add counts as two FLOPs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from itertools import accumulate

import torch
from torch import nn

from benchmarks.scale import assumptions as given
from varl.policy.base import cells
from varl.policy.nextflow.config import NextFlowConfig
from varl.policy.nextflow.transformer import NextFlowTransformer


@dataclass(frozen=True)
class Pass:
    """One run of the transformer.

    rows: sequences; new: positions of each that are computed; seen: positions before them in the cache; head: positions
    of a row that the visual head reads; visual: whether the positions are codes, which pass through the adapter, or
    text; scales: positions of each scale among the new ones, where there are several.
    """

    rows: int
    new: int
    seen: int
    head: int
    visual: bool = True
    scales: tuple[int, ...] = ()

    @property
    def pairs(self) -> int:
        """Positions of a row times those that each of them is attended to with: a scale sees none of those after it."""
        ends = accumulate(self.scales or (self.new,))
        return sum(count * (self.seen + end) for count, end in zip(self.scales or (self.new,), ends, strict=True))


@dataclass(frozen=True)
class Sizes:
    """Weights of a model: all parameters, and those of the linear maps of all layers and of the adapter."""

    parameters: int
    layers: int
    adapter: int


@cache
def sizes(config: NextFlowConfig) -> Sizes:
    """Count the weights of the module itself, built without memory."""
    with torch.device("meta"):
        module = NextFlowTransformer(config)
    return Sizes(sum(p.numel() for p in module.parameters()), _linear(module.layers), _linear(module.adapter))


def _linear(module: nn.Module) -> int:
    return sum(part.weight.numel() for part in module.modules() if isinstance(part, nn.Linear))


def flops(config: NextFlowConfig, run: Pass) -> float:
    """FLOPs of a pass: linear maps, attention (dense over text and within a scale) and head."""
    size, weights = config.transformer, sizes(config)
    linear = 2.0 * run.new * (weights.layers + run.visual * weights.adapter)
    attention = 4.0 * run.pairs * size.dim * size.depth
    return run.rows * (linear + attention + 2.0 * run.head * size.dim * config.tokenizer.codes)


def cache_bytes(config: NextFlowConfig) -> int:
    """Bytes of keys and values of one position."""
    size = config.transformer
    return 2 * size.depth * size.kv_heads * (size.dim // size.heads) * given.ACTIVATIONS


def memory_bytes(config: NextFlowConfig, run: Pass) -> float:
    """Bytes that a pass moves: the weights once, keys and values of every row, and the logits several times."""
    weights = given.ACTIVATIONS * (
        bool(run.new) * sizes(config).layers + config.transformer.dim * config.tokenizer.codes
    )
    kept = run.rows * (run.seen + run.new) * cache_bytes(config) if run.new else 0
    return weights + kept + run.rows * run.head * config.tokenizer.codes * given.LOGIT_BYTES * given.LOGIT_TOUCHES


def seconds(config: NextFlowConfig, runs: Iterable[Pass], card: given.Card, share: float) -> float:
    """Time of the passes on one card, each bound by its FLOPs at ``share`` of the peak or by its memory traffic."""
    bandwidth = card.bandwidth * given.USABLE
    return sum(max(flops(config, run) / (card.flops * share), memory_bytes(config, run) / bandwidth) for run in runs)


def bandwidth_share(config: NextFlowConfig, runs: Iterable[Pass], card: given.Card, share: float) -> float:
    """Share of that time in passes that memory bandwidth bounds, in [0, 1]."""
    runs = list(runs)
    bound = [
        run
        for run in runs
        if memory_bytes(config, run) / (card.bandwidth * given.USABLE) > flops(config, run) / (card.flops * share)
    ]
    return seconds(config, bound, card, share) / seconds(config, runs, card, share)


def decoder_flops(side: int = given.IMAGE_SIDE) -> float:
    """FLOPs of decoding one square image.

    Residual blocks of two 3x3 convolutions, one more convolution at every doubling.
    """
    total, before = 0.0, given.DECODER_CHANNELS * given.DECODER_MULTIPLES[-1]
    for level, multiple in reversed(list(enumerate(given.DECODER_MULTIPLES))):
        pixels, width = (side >> level) ** 2, given.DECODER_CHANNELS * multiple
        convolutions = before * width + (2 * (given.DECODER_BLOCKS + 1) - 1) * width**2 + bool(level) * 4 * width**2
        total, before = total + 2 * 9 * pixels * convolutions, width
    return total


def paper_formula_flops(config: NextFlowConfig) -> float:
    """FLOPs of one image's conditional forward as arXiv 2601.02204 counts them, without head or text.

    A layer counts 12 s h^2 + 4 s s_kv h.
    """
    counts, size = cells(config.grids), config.transformer
    pairs = sum(count * sum(counts[: scale + 1]) for scale, count in enumerate(counts))
    return size.depth * (12.0 * sum(counts) * size.dim**2 + 4.0 * pairs * size.dim)


def published_shares(config: NextFlowConfig, image: Iterable[Pass], card: given.Card) -> tuple[float, float]:
    """Shares of ``card``'s peak behind the authors' published seconds an image and training tokens a second."""
    drawn = sum(flops(config, run) for run in image) + decoder_flops()
    token = flops(config, Pass(1, sum(cells(config.grids)), 0, sum(cells(config.grids)))) / sum(cells(config.grids))
    return drawn / given.PUBLISHED_IMAGE_SECONDS / card.flops, 4 * token * given.PUBLISHED_TOKENS_A_SECOND / card.flops
