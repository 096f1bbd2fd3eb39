"""Multiscale 3D rotary positions (arXiv 2601.02204, Eq. 1)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from varl.policy.base import Grid


def text_positions(length: int, start: int = 0) -> Tensor:
    """float32 [length, 3]: the t-th text token stands at (t, t, t)."""
    return torch.arange(start, start + length, dtype=torch.float32)[:, None].expand(length, 3)


def visual_positions(grids: Sequence[Grid], first_scale: int, counter: float, extent: float) -> Tensor:
    """float32 [sum of h*w, 3]: (p_s, C / sqrt(hw) (i + 1/2), C / sqrt(hw) (j + 1/2)) for every cell of the given grids.

    ``first_scale`` is the index of grids[0] within its image and ``counter`` the position of <boi>; the running counter
    p_s grows by one a scale, and the 1x1 grid, which is not an input, takes none. ``extent`` is C.
    """
    rows = []
    for offset, (h, w) in enumerate(grids):
        unit = extent / (h * w) ** 0.5
        i, j = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
        scale = torch.full((h * w,), counter + first_scale + offset)
        rows.append(torch.stack([scale, unit * (i.flatten() + 0.5), unit * (j.flatten() + 0.5)], dim=1))
    return torch.cat(rows).float()


def rotation(positions: Tensor, sections: tuple[int, int, int], theta: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines, float32 [..., 2 * sum(sections)], of positions [..., 3].

    Every axis (scale, row, column) owns a section of the pairs with frequencies from 1 down to 1 / theta of its own.
    One spectrum cut into three, as Qwen2.5-VL has it, would leave the columns frequencies too low to tell neighbours
    apart; the paper does not say how the head is split.
    """
    frequency = torch.cat([theta ** (-torch.arange(n, dtype=torch.float32) / n) for n in sections]).to(positions.device)
    axis = torch.repeat_interleave(torch.arange(3), torch.tensor(sections)).to(positions.device)
    angle = positions[..., axis] * frequency
    angle = torch.cat([angle, angle], dim=-1)
    return angle.cos(), angle.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate heads x [B, heads, N, head size] by cos and sin [N, head size] or [B, 1, N, head size]."""
    a, b = x.chunk(2, dim=-1)
    return x * cos.to(x.dtype) + torch.cat([-b, a], dim=-1) * sin.to(x.dtype)
