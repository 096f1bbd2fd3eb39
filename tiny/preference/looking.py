"""Attention that has somewhere to look from the first step on: what a model of random weights takes longest to find.

With rotary embeddings, the biases of queries and keys alone give a weight that depends on nothing but the distance
between two positions. Setting them makes the vision half begin like a convolution, and the first layer of the decoder
see the token before each; training moves them as it moves every weight. Heads of key-value groups are not asked for:
each head has keys of its own.
"""

from __future__ import annotations

import torch
from torch import Tensor

from varl.services.hpsv3.model import RewardModel

Offset = tuple[float, float]  # patches down, patches to the right
# For each layer of the vision half, one offset for a head: strokes, parts of a letter, the letter, the letter to the
# left (6 or 8 away).
SIGHT: tuple[tuple[Offset, ...], ...] = (
    ((-1, 0), (1, 0), (0, -1), (0, 1)),
    ((-2, -2), (-2, 2), (2, -2), (2, 2)),
    ((-4, 0), (4, 0), (0, -4), (0, 4)),
    ((0, -6), (0, -8)),
)
BEFORE = (-1.0, -2.0)  # tokens from a token to the ones that two heads of the decoder's first layer look at
LIKENESS = 2.0  # the first maps of queries and keys in those layers, as a multiple of the usual ones
SHARPNESS = 6.0  # of the logit for each frequency; the slowest ones count little whatever this is


@torch.no_grad()
def look_nearby(model: RewardModel) -> None:
    """Set the biases; heads that no offset is given for begin without any."""
    vision = model.visual.config
    size = vision.embed_dim // vision.num_heads
    frequencies = _frequencies(float(vision.rope_parameters["rope_theta"]), size // 2)  # type: ignore[index]
    for block, offsets in zip(model.visual.blocks, SIGHT, strict=False):
        query, key, _ = block.attn.qkv.bias.view(3, vision.num_heads, size)  # type: ignore[union-attr, operator]
        for head, (down, right) in enumerate(offsets[: vision.num_heads]):
            _point(query[head], key[head], torch.cat([down * frequencies, right * frequencies]))
    text = model.model.config
    size = text.hidden_size // text.num_attention_heads
    first = model.model.layers[0].self_attn
    query, key = (part.bias.view(-1, size) for part in (first.q_proj, first.k_proj))  # type: ignore[union-attr, operator]
    frequencies = _frequencies(float(text.rope_parameters["rope_theta"]), size)  # type: ignore[index,arg-type]
    for head, offset in enumerate(BEFORE[: len(query)]):
        _point(query[head], key[head], offset * frequencies)


@torch.no_grad()
def look_for_alike(model: RewardModel) -> None:
    """Give the decoder's middle layers the same map for queries and keys.

    A token first looks at what resembles it, a letter at itself.
    """
    for layer in model.model.layers[1:-1]:
        attention = layer.self_attn
        attention.q_proj.weight.mul_(LIKENESS)  # type: ignore[union-attr, operator]
        attention.k_proj.weight.copy_(attention.q_proj.weight)  # type: ignore[union-attr, operator, arg-type]


def _frequencies(theta: float, size: int) -> Tensor:
    return 1.0 / theta ** (torch.arange(0, size, 2, dtype=torch.float32) / size)


def _point(query: Tensor, key: Tensor, angles: Tensor) -> None:
    """Set the biases [size] of one head in place, from angles [size / 2].

    The logit becomes SHARPNESS times the sum of cos(frequency · (distance - offset)).
    """
    length = (SHARPNESS * len(query) ** 0.5) ** 0.5
    query.copy_(length * torch.cat([angles.cos(), angles.sin()]))
    key.copy_(length * torch.cat([torch.ones_like(angles), torch.zeros_like(angles)]))
