"""Drawing tokens from logits.

Guidance, temperature, top-k, top-p, and one random stream per candidate (docs/method.md).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from varl.policy.base import Grid, SamplerState, SamplingParams, cells

BLOCK = 128  # codes whose probabilities are summed before one of them is looked for
FEW = 1024  # probabilities that are summed one by one, and sorted for top-p; more are not
_MASK64 = (1 << 64) - 1
_GAMMA, _MULTIPLIERS = 0x9E3779B97F4A7C15, (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)  # of splitmix64


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


def choices(logits: Tensor, params: SamplingParams) -> tuple[Tensor, Tensor | None]:
    """Weights float32 [..., k] of what may be drawn, and its codes int64 [..., k], of logits [..., codes].

    The logits are those after guidance. Temperature, then the top_k largest, then the smallest set that reaches top_p;
    both cuts always keep the best code. The codes are in ascending order, or None where k is all of them. Weights need
    not sum to 1. Where top_k is on, nothing but the search for the k largest touches all codes; of ties at the k-th
    place only so many are kept that there are k.
    """
    logits, codes = _tempered(logits.to(torch.float32), params.temperature), None
    if 0 < params.top_k < logits.shape[-1]:
        logits, codes = logits.topk(params.top_k, dim=-1, sorted=False)
        codes, order = codes.sort(dim=-1)
        logits = logits.gather(-1, order)
    probs = logits.softmax(-1)
    if params.top_p < 1:
        probs = probs.masked_fill(probs < _least_kept(probs, 1 - params.top_p), 0)
    return probs, codes


def draw(weights: Tensor, uniforms: Tensor) -> Tensor:
    """Indices int64 [..., c] by inverse cumulative distribution, of weights [..., k] and uniforms [..., c] in [0, 1).

    The sum that a uniform is looked up in is float64, of more than FEW weights in blocks first and then within one
    block: nothing of a large codebook's size is made in float64. An index without weight is never drawn.
    """
    if weights.shape[-1] <= FEW:
        ends = weights.double().cumsum(-1)
        return _look_up(ends, uniforms.double() * ends[..., -1:])
    padded = F.pad(weights, (0, -weights.shape[-1] % BLOCK))
    blocks = padded.view(*padded.shape[:-1], -1, BLOCK)
    ends = blocks.sum(-1, dtype=torch.float64).cumsum(-1)
    target = uniforms.double() * ends[..., -1:]
    block = _look_up(ends, target)
    before = F.pad(ends, (1, 0)).gather(-1, block)
    inside = blocks.gather(-2, block[..., None].expand(*block.shape, BLOCK)).double().cumsum(-1) + before[..., None]
    return (block * BLOCK + _look_up(inside, target[..., None])[..., 0]).clamp_max(weights.shape[-1] - 1)


def _look_up(ends: Tensor, target: Tensor) -> Tensor:
    """The first index whose end lies above the target, of float64 ends [..., k] and targets [..., c] in [0, last end].

    A target that rounding has brought to the last end is moved below it: what has no weight is never found. Of ends
    that are NaN, as of a policy that has diverged, it is the last index: one that exists.
    """
    last = ends[..., -1:]
    below = torch.minimum(target, torch.nextafter(last, last.new_zeros(())))
    return torch.searchsorted(ends, below, right=True).clamp_max(ends.shape[-1] - 1)


def _tempered(logits: Tensor, temperature: float) -> Tensor:
    return logits if temperature == 1 else logits / temperature


def _least_kept(probs: Tensor, dropped: float) -> Tensor:
    """float32 [..., 1]: the smallest probability of [..., k] that stays where the unlikeliest ``dropped`` in all go.

    A few are sorted. Of many the bits of the threshold are found one by one (floats that are not negative are ordered
    as their bits are), in 31 readings of them.
    """
    if probs.shape[-1] <= FEW:
        ordered = probs.sort(dim=-1).values
        gone = (ordered.cumsum(-1) <= dropped).sum(-1, keepdim=True).clamp_max(probs.shape[-1] - 1)
        return ordered.gather(-1, gone)
    high = probs.amax(-1, keepdim=True).view(torch.int32)  # stays
    low = torch.full_like(high, -1)  # goes, as nothing is below it
    for _ in range(31):
        middle = low + ((high - low) >> 1)
        goes = probs.masked_fill(probs > middle.view(torch.float32), 0).sum(-1, keepdim=True) <= dropped
        goes |= middle < 0
        low, high = torch.where(goes, middle, low), torch.where(goes, high, middle)
    return high.view(torch.float32)


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


def uniforms(seeds: Sequence[int], scale: int, count: int, device: torch.device | None = None) -> Tensor:
    """float64 [len(seeds), count] in [0, 1): row i depends on (seeds[i], scale) alone.

    On a CPU, torch's generator. On any other device they are made there, by ``counted``: other numbers.
    """
    if device is not None and device.type != "cpu":
        return counted([mix(seed, scale) for seed in seeds], count, device)
    rows = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(mix(seed, scale) >> 1)
        rows.append(torch.rand(count, generator=generator, dtype=torch.float64))
    return torch.stack(rows)


def counted(keys: Sequence[int], count: int, device: torch.device) -> Tensor:
    """float64 [len(keys), count] in [0, 1): the 53 high bits of the splitmix64 streams that start at 64-bit keys.

    Number j is a function of (key, j), so that all are made at once.
    """
    starts = torch.tensor([_signed(key) for key in keys], device=device)
    x = starts[:, None] + torch.arange(1, count + 1, device=device) * _signed(_GAMMA)
    x = (x ^ _shifted(x, 30)) * _signed(_MULTIPLIERS[0])
    x = (x ^ _shifted(x, 27)) * _signed(_MULTIPLIERS[1])
    return _shifted(x ^ _shifted(x, 31), 11).to(torch.float64) * 2.0**-53


def _signed(number: int) -> int:
    """The int64 with the bits of a 64-bit number."""
    return number - (1 << 64) if number >> 63 else number


def _shifted(x: Tensor, places: int) -> Tensor:
    """Shifted right, zeros moving in: int64 would move in its sign."""
    return (x >> places) & ((1 << 64 - places) - 1)


def mix(seed: int, *keys: int) -> int:
    """A 64-bit seed out of a seed and further keys.

    One splitmix64 step for each key, so that neighbours are unrelated.
    """
    state = seed & _MASK64
    for key in keys:
        state = (state + _GAMMA * (key + 1)) & _MASK64
        state = ((state ^ (state >> 30)) * _MULTIPLIERS[0]) & _MASK64
        state = ((state ^ (state >> 27)) * _MULTIPLIERS[1]) & _MASK64
        state ^= state >> 31
    return state
