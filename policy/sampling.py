"""Drawing tokens from logits.

Guidance, temperature, top-k, top-p, and one random stream per candidate (docs/method.md).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from varl.policy.base import Grid, SamplerState, SamplingParams, cells

_MASK64 = (1 << 64) - 1


def check_request(
    state: SamplerState, to_scale: int, scales: int, seeds: Sequence[int], params: SamplingParams, guided: bool
) -> None:
    """Raise ValueError where ``Policy.sample`` cannot be served.

    scales: how many the policy has. guided: whether the state has the unconditional branch.
    """
    if not state.next_scale < to_scale <= scales:
        raise ValueError(f"to_scale must be in {state.next_scale + 1} … {scales}, got {to_scale}")
    if not seeds or len(seeds) % state.batch:
        raise ValueError(f"{len(seeds)} seeds for {state.batch} candidates")
    if params.cfg > 0 and not guided:
        raise ValueError("cfg > 0 needs a state that was prefilled with guided=True")


def guidance(params: SamplingParams, scale: int, scales: int) -> float:
    """Guidance t at a scale index: linear from 0 to cfg over the scales as VAR and TokenFlow sample, or constant."""
    if params.cfg_constant or scales < 2:
        return params.cfg
    return params.cfg * scale / (scales - 1)


def site_guidance(
    params: SamplingParams, grids: Sequence[Grid], scales: range, device: torch.device | None = None
) -> Tensor:
    """float32 [n]: the guidance t at every site of a range of scales."""
    strengths = torch.tensor([guidance(params, scale, len(grids)) for scale in scales], dtype=torch.float32)
    return torch.repeat_interleave(strengths, torch.tensor(cells(grids[scales.start : scales.stop]))).to(device)


def guided(conditional: Tensor, unconditional: Tensor, t: float | Tensor) -> Tensor:
    """(1 + t) * conditional - t * unconditional."""
    return (1 + t) * conditional - t * unconditional


def probabilities(logits: Tensor, params: SamplingParams) -> Tensor:
    """Float32 [..., codes] that sum to 1.

    Temperature, then the top_k largest, then the smallest set that reaches top_p.
    Both cuts always keep the best code; ties at the k-th place are all kept.
    """
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


def sample_bits(logits: Tensor, params: SamplingParams, uniforms: Tensor) -> Tensor:
    """Sample bits, bool [B, n, bits], by the odds of "1".

    The odds are logits, float [B, n, bits], after guidance; the uniforms are [B, n * bits] in [0, 1).

    Each bit is a choice of two: top_k = 1 takes the likelier one and any other k keeps both, top_p takes it where it
    has that much probability.
    """
    one = (logits.double() / params.temperature).sigmoid()
    likelier = torch.maximum(one, 1 - one)
    if params.top_k == 1:
        return one > 0.5
    bits = uniforms.to(one).view_as(one) < one
    return torch.where(likelier >= params.top_p, one > 0.5, bits) if params.top_p < 1 else bits


def uniforms(seeds: Sequence[int], scale: int, count: int) -> Tensor:
    """float64 [len(seeds), count] in [0, 1), on the CPU: row i depends on (seeds[i], scale) alone."""
    rows = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(mix(seed, scale) >> 1)
        rows.append(torch.rand(count, generator=generator, dtype=torch.float64))
    return torch.stack(rows)


def mix(seed: int, *keys: int) -> int:
    """A 64-bit seed out of a seed and further keys.

    One splitmix64 step for each key, so that neighbours are unrelated.
    """
    state = seed & _MASK64
    for key in keys:
        state = (state + 0x9E3779B97F4A7C15 * (key + 1)) & _MASK64
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK64
        state ^= state >> 31
    return state
