"""The transformer: scales of bits, each seeing itself and all coarser ones, and a prompt by cross-attention.

Facts: arXiv 2412.04431, section 3.3; FoundationVision/Infinity, infinity/models/infinity.py and basic.py. Parameters
and buffers have the published names, so that a published state dict is one of this module's. Stochastic depth and the
random loss of the prompt in training are left out: what is trained here is a policy, whose probabilities are compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from varl.policy.base import Grid, cells
from varl.policy.infinity.blocks import EPSILON, Block, TextPool
from varl.policy.infinity.config import InfinityConfig
from varl.policy.kv_cache import KeyValue, KVCache, Segment, concatenated, lanes, slices
from varl.policy.recompute import Recomputes


@dataclass(frozen=True)
class Text:
    """A prompt as the blocks see it: the same for every candidate and scale.

    pooled: [1, width], of which the first token is made, and which modulates the head; modulation: [1, 1, 6, width],
    what the blocks are modulated by; memory: [L, width], what they attend to.
    """

    pooled: Tensor
    modulation: Tensor
    memory: Tensor


@dataclass(frozen=True)
class Prompt:
    """A prompt as the sampler sees it: also a block's keys and values of its rows, which all scales attend to."""

    text: Text
    pairs: Segment


@dataclass(frozen=True)
class Scales:
    """A run of consecutive scales.

    first: index of the first of them. grids: (height, width) of each. inputs: float32 [B, N, bits], the sums of codes
    that they are predicted from, without the first scale, which has none (None where it is alone). turn: cosines and
    sines of their N positions. keep: whether keys and values are returned for scales to come.
    """

    first: int
    grids: tuple[Grid, ...]
    inputs: Tensor | None
    turn: KeyValue
    keep: bool


class Chunk(nn.Module):
    """A group of blocks; the published code shards and recomputes by such groups, here only the names tell."""

    def __init__(self, blocks: Sequence[Block]) -> None:
        super().__init__()
        self.module = nn.ModuleList(blocks)


class HeadNorm(nn.Module):
    """Layer normalisation before the head, scaled and shifted by the pooled prompt."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.ada_lin = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def forward(self, x: Tensor, pooled: Tensor) -> Tensor:
        """[B, N, width] and [1 or B, width] to [B, N, width]."""
        scale, shift = self.ada_lin(pooled).unflatten(-1, (1, 2, -1)).unbind(2)
        return F.layer_norm(x, x.shape[-1:], eps=EPSILON) * (1 + scale) + shift  # type: ignore[no-any-return]


class InfinityTransformer(Recomputes, nn.Module):
    """From rows of a text encoder and sums of codes to a pair of logits for every bit."""

    def __init__(self, config: InfinityConfig) -> None:
        super().__init__()
        size, bits = config.transformer, config.tokenizer.bits_per_site
        width, self.bits = size.width, bits
        self.cfg_uncond = nn.Parameter(torch.randn(size.text_length, size.text_width) / size.text_width**0.5)
        self.pos_start = nn.Parameter(torch.randn(1, 1, width) / width**0.5)
        self.text_norm = nn.RMSNorm(size.text_width, eps=EPSILON)
        self.text_proj_for_sos = TextPool(width, size.text_width, size.pool_heads)
        self.text_proj_for_ca = nn.Sequential(
            nn.Linear(size.text_width, width), nn.GELU(approximate="tanh"), nn.Linear(width, width)
        )
        self.lvl_embed = nn.Embedding(size.levels, width)
        self.word_embed = nn.Linear(bits, width)
        self.shared_ada_lin = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
        self.head_nm = HeadNorm(width)
        self.head = nn.Linear(width, 2 * bits)
        blocks, each = [Block(size) for _ in range(size.depth)], size.depth // size.chunks
        self.block_chunks = nn.ModuleList(Chunk(blocks[i : i + each]) for i in range(0, size.depth, each))

    @property
    def blocks(self) -> list[Block]:
        """All blocks, in order."""
        return [block for chunk in self.block_chunks for block in chunk.module]  # type: ignore[union-attr]

    def forward(
        self,
        text: Tensor | int | Text,
        scales: Sequence[Scales] = (),
        past: Sequence[Segment] = (),
        heads: bool = True,
    ) -> tuple[Text, list[Tensor], list[Segment]]:
        """One job, whole: a prompt that is read, a scale that is sampled, or a teacher-forced pass.

        It is the place where FSDP2 and torch.compile attach. text: a prompt's rows float32 [L, text_width], the length
        of the unconditional rows that stand for it, or what an earlier call returned. Each run of scales sees ``past``
        and the runs before it; one of one row is shared by all rows of those after it.

        Returns the text, logits float32 [B, N, bits, 2] of every run, those of "0" and "1", and the keys and values of
        the runs that keep them. Without heads, in place of the logits, what ``bit_head`` makes them of: [B, N, width].
        """
        read = text if isinstance(text, Text) else self._read(text)
        xs, caches = self._blocks([self._embed(run, read) for run in scales], scales, read, past)
        hidden = [self.head_nm(x, read.pooled) for x in xs]
        outputs = [self._logits(x) for x in hidden] if heads else hidden
        return read, outputs, [cache for cache in caches if cache is not None]

    @property
    def empty(self) -> KVCache:
        """The cache before the first scale, of one candidate."""
        attention = self.blocks[0].sa
        heads, width = attention.heads, self.head.in_features
        return KVCache.empty((len(self.blocks), 2, 1, heads, 0, width // heads), self.pos_start)

    def read(self, text: Tensor | int) -> Prompt:
        """A prompt, or the unconditional rows that stand for one (see ``forward``), read once for all scales."""
        found = self._read(text)
        return Prompt(found, [block.ca.read(found.memory) for block in self.blocks])

    def sample(self, prompts: Sequence[Prompt], run: Scales, caches: Sequence[KVCache], count: int = 1) -> Tensor:
        """Logits float32 [branches, P * B, n, bits, 2] of one scale of B candidates of each of P prompts.

        prompts, caches: one for every branch of every prompt, those of a branch next to each other. run: inputs
        [P * B, n, bits], the same in all branches; the first scale has none, and one candidate a prompt. keep: whether
        the last n places of the caches are the scale's, to be written; else it sees all of them.
        """
        x = self._lanes_in(run, prompts, count)
        batch, n, outputs = x.shape[2], x.shape[3], []
        for some in slices(count, batch, n * len(x), x.device):
            part = x[:, some.prompts, some.rows].flatten(0, 2)
            chosen, read = some.of(caches, count), some.of(prompts, count)
            pooled, modulation = (
                torch.cat([getattr(one.text, name) for one in read]).repeat_interleave(len(part) // len(read), 0)
                for name in ("pooled", "modulation")
            )
            for index, block in enumerate(self.blocks):
                seen = lanes(chosen, index, some.rows, n * run.keep)
                part = block.sample(part, modulation, run.turn, seen, [one.pairs[index] for one in read])
            logits = self._logits(self.head_nm(part, pooled))
            outputs.append(logits.view(len(x), -1, *logits.shape[1:]))
        return concatenated(outputs, 1)

    def _lanes_in(self, run: Scales, prompts: Sequence[Prompt], count: int) -> Tensor:
        """[branches, P, B, n, width]: what a scale begins with, of P = ``count`` prompts."""
        if run.inputs is None:  # the first scale begins with the prompts themselves
            x = torch.stack([self._embed(run, prompt.text) for prompt in prompts])
            return x.view(-1, count, *x.shape[1:])
        x = self._embed(run, prompts[0].text)  # of later scales the text is no part
        return x.view(1, count, -1, *x.shape[1:]).expand(len(prompts) // count, -1, -1, -1, -1)

    def _read(self, text: Tensor | int) -> Text:
        rows = self.cfg_uncond[:text] if isinstance(text, int) else text
        # In the precision of the rows, which is float32 for a prompt's, and only then in that of the weights.
        normed = F.rms_norm(rows, rows.shape[-1:], self.text_norm.weight.to(rows.dtype), EPSILON)
        normed = normed.to(self.text_norm.weight.dtype)
        pooled, memory = self.text_proj_for_sos(normed), self.text_proj_for_ca(normed)
        modulation = self.shared_ada_lin(pooled).unflatten(-1, (1, 6, -1))
        return Text(pooled, modulation, memory)

    def _embed(self, run: Scales, text: Text) -> Tensor:
        """[B, N, width]: the start token where the run has the first scale, the sums of codes, and the scales' rows."""
        parts = [text.pooled[:, None] + self.pos_start] if run.first == 0 else []
        if run.inputs is not None:
            x = self.word_embed(run.inputs.to(self.word_embed.weight.dtype))
            parts = [*(part.expand(len(x), -1, -1) for part in parts), x]
        sites, table = cells(run.grids), self.lvl_embed.weight
        counts = torch.tensor(sites, device=table.device)
        levels = table[run.first : run.first + len(run.grids)]
        return torch.cat(parts, 1) + levels.repeat_interleave(counts, 0, output_size=sum(sites))

    def _blocks(
        self, xs: list[Tensor], runs: Sequence[Scales], text: Text, past: Sequence[Segment]
    ) -> tuple[list[Tensor], list[Segment | None]]:
        """All blocks over the runs' inputs."""
        kept, call = [Segment() if run.keep else None for run in runs], self.block_call(xs, len(self.blocks))
        turns, counts = [run.turn for run in runs], [cells(run.grids) for run in runs]
        for index, block in enumerate(self.blocks):
            given = (xs, text.modulation, text.memory, turns, [segment[index] for segment in past], counts)
            xs, pairs = call(block.in_turn, *given)
            for segment, pair in zip(kept, pairs, strict=True):
                if segment is not None:  # else the keys of the largest scale would be alive in all layers at once
                    # Values are a view of the whole projection: queries and keys would stay alive as well.
                    segment.append((pair[0], pair[1].clone(memory_format=torch.contiguous_format)))
        return xs, kept

    def bit_head(self) -> tuple[Tensor, Tensor]:
        """Weight [2 * bits, width] and bias [2 * bits] of the head."""
        return self.head.weight, self.head.bias

    def _logits(self, hidden: Tensor) -> Tensor:
        """float32 [B, N, bits, 2]; the head's product is float32 for all weights, since a site sums many bits."""
        weight, bias = (one.to(torch.float32) for one in self.bit_head())
        return F.linear(hidden.to(torch.float32), weight, bias).view(*hidden.shape[:2], self.bits, 2)
