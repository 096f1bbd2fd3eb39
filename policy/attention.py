"""Attention of scales that are computed together, of which none sees those after it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from varl.policy.kv_cache import concatenated


def by_scale(
    attend: Callable[[Tensor, Tensor, Tensor], Tensor],
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    counts: Sequence[int],
) -> Tensor:
    """Outputs [B, heads, N, head size] of scales of ``counts`` sites, each attended to on its own by ``attend``.

    queries: [B, heads, N, head size]. keys, values: what all scales see, and then their own N. A scale sees itself and
    all before it, so it needs neither a mask, which would keep a GPU's fast kernels from being used, nor the scores
    that one would hide.
    """
    seen, outputs = keys.shape[2] - queries.shape[2], []
    for part in queries.split_with_sizes(list(counts), 2):
        seen += part.shape[2]
        outputs.append(attend(part, keys[:, :, :seen], values[:, :, :seen]))
    return concatenated(outputs, 2)
