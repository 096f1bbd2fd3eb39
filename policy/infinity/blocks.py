"""What the transformer is made of: self-attention over scales, cross-attention to the prompt, and the blocks.

Facts: FoundationVision/Infinity, infinity/models/basic.py, whose names the parameters and buffers keep.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from varl.policy.attention import by_scale
from varl.policy.infinity.config import TransformerConfig
from varl.policy.infinity.rope import rotate
from varl.policy.kv_cache import KeyValue, Lane, concatenated

EPSILON = 1e-6  # of all normalisations
SHARPEST = math.log(100)  # bound of the logarithm of a head's scale


class GivenBias(nn.Linear):
    """A linear layer whose bias is given with the input: the files hold it in parts, some of them all zero."""

    def __init__(self, source: int, width: int) -> None:
        super().__init__(source, width, bias=False)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:  # type: ignore[override]
        """[..., source] to [..., width]; bias: [width]."""
        return F.linear(x, self.weight, bias)


class SelfAttention(nn.Module):
    """Attention by the cosine of queries and keys, times a learned scale a head, with rotary positions."""

    zero_k_bias: Tensor

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale_mul_1H11 = nn.Parameter(torch.full((1, heads, 1, 1), math.log(4)))
        self.mat_qkv = GivenBias(width, 3 * width)
        self.q_bias, self.v_bias = nn.Parameter(torch.zeros(width)), nn.Parameter(torch.zeros(width))
        self.register_buffer("zero_k_bias", torch.zeros(width))
        self.proj = nn.Linear(width, width)

    def forward(
        self, x: Tensor, turn: KeyValue, past: Sequence[KeyValue], counts: Sequence[int]
    ) -> tuple[Tensor, KeyValue]:
        """[B, N, width] to the same, and the new keys and values [B, heads, N, head size].

        ``past`` comes before x, whose N sites are those of scales of ``counts`` sites.
        """
        q, k, v = self._project(x, turn)
        keys = torch.cat([*(old.expand(len(x), -1, -1, -1) for old, _ in past), k], 2)
        values = torch.cat([*(old.expand(len(x), -1, -1, -1) for _, old in past), v], 2)
        return self.proj(_join(by_scale(_attend, q, keys, values, counts))), (k, v)

    def sample(self, x: Tensor, turn: KeyValue, lanes: Sequence[Lane]) -> Tensor:
        """[lanes * B, n, width] of one scale to the same; every lane's rows see what their lane has, and themselves."""
        parts = zip(*(one.chunk(len(lanes)) for one in self._project(x, turn)), lanes, strict=True)
        outputs = []
        for q, k, v, lane in parts:
            keys, values = lane.seen(k, v)
            outputs.append(_join(_attend(q, keys, values)))
        return self.proj(concatenated(outputs))  # type: ignore[no-any-return]

    def _project(self, x: Tensor, turn: KeyValue) -> tuple[Tensor, Tensor, Tensor]:
        bias = torch.cat([self.q_bias, self.zero_k_bias, self.v_bias])
        q, k, v = (_split(one, self.heads) for one in self.mat_qkv(x, bias).chunk(3, -1))
        q = F.normalize(q, dim=-1, eps=1e-12) * self.scale_mul_1H11.clamp_max(SHARPEST).exp()
        k = F.normalize(k, dim=-1, eps=1e-12)
        return rotate(q, *turn).to(v.dtype), rotate(k, *turn).to(v.dtype), v


class TextAttention(nn.Module):
    """What attention to the rows of a prompt has in common: their keys and values, and the projection at its end."""

    zero_k_bias: Tensor

    def __init__(self, width: int, source: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.mat_kv = GivenBias(source, 2 * width)
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.register_buffer("zero_k_bias", torch.zeros(width))  # keys have no bias, yet the files hold its zeros
        self.proj = nn.Linear(width, width)

    def read(self, rows: Tensor) -> KeyValue:
        """Keys and values [1, heads, L, head size] of rows [L, source]."""
        pair = self.mat_kv(rows[None], torch.cat([self.zero_k_bias, self.v_bias])).chunk(2, -1)
        keys, values = (_split(one, self.heads) for one in pair)
        return keys, values

    def attend(self, q: Tensor, rows: Tensor) -> Tensor:
        """Queries [B, heads, N, head size] and rows [L, source] to [B, N, width]; no mask and no positions.

        Scores are divided by the root of the head size.
        """
        return self.proj(_attended(q, self.read(rows)))  # type: ignore[no-any-return]


class CrossAttention(TextAttention):
    """Every site attends to the prompt."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__(width, width, heads)
        self.mat_q = nn.Linear(width, width)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        """[B, N, width] to the same; memory: [L, width]."""
        return self.attend(_split(self.mat_q(x), self.heads), memory)

    def sample(self, x: Tensor, texts: Sequence[KeyValue]) -> Tensor:
        """[texts * B, n, width] to the same, each text's rows attending to what ``read`` gave of it."""
        parts = zip(_split(self.mat_q(x), self.heads).chunk(len(texts)), texts, strict=True)
        return self.proj(concatenated([_attended(q, pair) for q, pair in parts]))  # type: ignore[no-any-return]


class Pooling(TextAttention):
    """One learned query over the prompt's rows."""

    def __init__(self, width: int, text_width: int, heads: int) -> None:
        super().__init__(width, text_width, heads)
        self.mat_q = nn.Parameter(torch.randn(1, heads, width // heads) / width**0.5)

    def forward(self, rows: Tensor) -> Tensor:
        """[L, text_width] to [1, width]."""
        return self.attend(self.mat_q[:, :, None], rows)[:, 0]


class TextPool(nn.Module):
    """The pooling, one name deeper, as the published files have it."""

    def __init__(self, width: int, text_width: int, heads: int) -> None:
        super().__init__()
        self.ca = Pooling(width, text_width, heads)

    def forward(self, rows: Tensor) -> Tensor:
        """[L, text_width] to [1, width]."""
        return self.ca(rows)  # type: ignore[no-any-return]


class MLP(nn.Module):
    """Two layers with a GELU, approximated by tanh."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] to the same."""
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))  # type: ignore[no-any-return]


class Block(nn.Module):
    """Self-attention and MLP, both gated and modulated by the prompt, and between them plain cross-attention to it."""

    def __init__(self, size: TransformerConfig) -> None:
        super().__init__()
        self.ada_gss = nn.Parameter(torch.randn(1, 1, 6, size.width) / size.width**0.5)
        self.sa = SelfAttention(size.width, size.heads)
        self.ca = CrossAttention(size.width, size.heads)
        self.ffn = MLP(size.width, size.hidden)
        self.ca_norm = nn.LayerNorm(size.width, eps=EPSILON)

    def forward(
        self,
        x: Tensor,
        modulation: Tensor,
        memory: Tensor,
        turn: KeyValue,
        past: Sequence[KeyValue],
        counts: Sequence[int],
    ) -> tuple[Tensor, KeyValue]:
        """[B, N, width] to the same, and the new keys and values; modulation: [1, 1, 6, width]."""
        gamma1, gamma2, scale1, scale2, shift1, shift2 = (self.ada_gss + modulation).unbind(2)
        attended, pair = self.sa(_modulated(x, scale1, shift1), turn, past, counts)
        x = x + attended * gamma1
        x = x + self.ca(self.ca_norm(x), memory)
        return x + self.ffn(_modulated(x, scale2, shift2)) * gamma2, pair

    def sample(
        self, x: Tensor, modulation: Tensor, turn: KeyValue, lanes: Sequence[Lane], texts: Sequence[KeyValue]
    ) -> Tensor:
        """[lanes * B, n, width] of one scale to the same; modulation: [lanes * B, 1, 6, width]; a text a lane."""
        gamma1, gamma2, scale1, scale2, shift1, shift2 = (self.ada_gss + modulation).unbind(2)
        x = x + self.sa.sample(_modulated(x, scale1, shift1), turn, lanes) * gamma1
        x = x + self.ca.sample(self.ca_norm(x), texts)
        return x + self.ffn(_modulated(x, scale2, shift2)) * gamma2  # type: ignore[no-any-return]

    def in_turn(
        self,
        xs: Sequence[Tensor],
        modulation: Tensor,
        memory: Tensor,
        turns: Sequence[KeyValue],
        past: Sequence[KeyValue],
        counts: Sequence[Sequence[int]],
    ) -> tuple[list[Tensor], list[KeyValue]]:
        """``forward`` of runs of scales one after another, each seeing ``past`` and those before it.

        One call a block whatever their number, so that weights that are spread over devices are gathered once.
        """
        outputs, pairs = list[Tensor](), list[KeyValue]()
        for x, turn, sites in zip(xs, turns, counts, strict=True):
            out, pair = self.forward(x, modulation, memory, turn, [*past, *pairs], sites)
            outputs.append(out)
            pairs.append(pair)
        return outputs, pairs


def _modulated(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=EPSILON) * (1 + scale) + shift


def _split(x: Tensor, heads: int) -> Tensor:
    """[B, N, width] to [B, heads, N, head size]."""
    return x.view(*x.shape[:2], heads, -1).transpose(1, 2)


def _attended(q: Tensor, pair: KeyValue) -> Tensor:
    """[B, N, width] of queries [B, heads, N, head size] and keys and values of one row, which serve all."""
    keys, values = (one.expand(len(q), -1, -1, -1) for one in pair)
    return _join(F.scaled_dot_product_attention(q, keys, values))


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Queries are normalised and carry a learnt scale of their own."""
    return F.scaled_dot_product_attention(q, k, v, scale=1.0)


def _join(x: Tensor) -> Tensor:
    """[B, heads, N, head size] to [B, N, width]."""
    return x.transpose(1, 2).flatten(2)
