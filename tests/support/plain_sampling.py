"""How a token is drawn, as it is defined: over the whole codebook, with a sort and a sum of all probabilities."""

from __future__ import annotations

import torch
from torch import Tensor

from varl.policy.base import SamplingParams


def probabilities(logits: Tensor, params: SamplingParams) -> Tensor:
    """Float32 [..., codes] that sum to 1: temperature, then the top_k largest, then the smallest set with top_p."""
    logits = logits.to(torch.float32) / params.temperature
    if 0 < params.top_k < logits.shape[-1]:
        kth = logits.topk(params.top_k, dim=-1).values[..., -1:]
        logits = logits.masked_fill(logits < kth, -torch.inf)
    probs = logits.softmax(-1)
    if params.top_p < 1:
        ordered, order = probs.sort(dim=-1)
        drop = ordered.cumsum(-1) <= 1 - params.top_p
        drop[..., -1] = False
        probs = probs.masked_fill(torch.zeros_like(drop).scatter(-1, order, drop), 0)
        probs = probs / probs.sum(-1, keepdim=True)
    return probs


def sample(probs: Tensor, uniforms: Tensor) -> Tensor:
    """Codes int64 [B, n] by inverse cumulative distribution, of probs [B, n, codes] and uniforms [B, n] in [0, 1)."""
    total = probs.double().cumsum(-1)
    target = (uniforms.double() * total[..., -1])[..., None]
    return torch.searchsorted(total, target, right=True).squeeze(-1).clamp_max(probs.shape[-1] - 1)
