"""Multiscale 3D rotary positions (arXiv 2601.02204, Eq. 1)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from varl.policy.base import Grid
from varl.policy.nextflow.config import TransformerConfig


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
    return torch.cat(rows)


def rotation(positions: Tensor, size: TransformerConfig) -> tuple[Tensor, Tensor]:
    """Cosines and sines, float32 [..., head size], of positions float32 [..., 3].

    Each of the head's pairs turns with one axis (scale, row, column) at one frequency; the paper does not say which.
    ``rope_sections`` counts an axis's pairs, ``rope_spectrum`` gives them frequencies:

    - per_axis: each axis from 1 down to 1 / theta on its own;
    - mrope: one spectrum from 1 to 1 / theta cut into three, as Qwen2.5-VL has it, the scale's section first. The
      columns' frequencies are then all low;
    - mrope_interleaved: that spectrum with the axes taking turns, so that each has high and low frequencies.

    Text stands at (t, t, t), so the two last rotate it as Qwen2.5 does.
    """
    frequency, axis = (part.to(positions.device) for part in _pairs(size))
    angle = positions[..., axis] * frequency
    angle = torch.cat([angle, angle], dim=-1)
    return angle.cos(), angle.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate heads x [B, heads, N, head size] by cos and sin [N, head size] or [B, 1, N, head size]."""
    a, b = x.chunk(2, dim=-1)
    c, s = (part.to(x.dtype).chunk(2, dim=-1)[0] for part in (cos, sin))  # their halves are alike
    return torch.cat([a * c - b * s, b * c + a * s], dim=-1)


def _pairs(size: TransformerConfig) -> tuple[Tensor, Tensor]:
    """Frequency, float32, and axis, int64, of each of the head's pairs."""
    sections, theta = size.rope_sections, size.rope_theta
    axis = torch.repeat_interleave(torch.arange(3), torch.tensor(sections))
    if size.rope_spectrum == "per_axis":
        return torch.cat([theta ** (-torch.arange(n, dtype=torch.float32) / n) for n in sections]), axis
    if size.rope_spectrum == "mrope_interleaved":
        axis = axis[torch.cat([(torch.arange(n) + 0.5) / n for n in sections]).argsort(stable=True)]
    pairs = sum(sections)
    return 1 / theta ** (torch.arange(pairs, dtype=torch.float32) / pairs), axis
