"""Keys and values that a sampler keeps, and how they are shared among the candidates that continue one another."""

from __future__ import annotations

from torch import Tensor

KeyValue = tuple[Tensor, Tensor]  # each [B or 1, heads, N, head size]
Segment = list[KeyValue]  # (keys, values) of one stretch of the sequence, a pair per layer


def repeat(x: Tensor, copies: int) -> Tensor:
    """Every row ``copies`` times, next to each other."""
    return x.repeat_interleave(copies, dim=0) if copies > 1 else x


def spread(segment: Segment, copies: int) -> Segment:
    """Keys and values for every copy; a single row serves all candidates as it is."""
    return [(k, v) if k.shape[0] == 1 else (repeat(k, copies), repeat(v, copies)) for k, v in segment]
