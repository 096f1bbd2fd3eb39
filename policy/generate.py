"""Pictures from a prompt: a model's own, sampled on this machine, without services."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from varl.policy.base import Policy, SamplingParams
from varl.policy.sampling import mix

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Step:
    """What is there after a scale. scale: its index from 0; pixels: uint8 [B, H, W, 3], RGB."""

    scale: int
    pixels: Pixels


def generate(policy: Policy, prompt: str, count: int, seed: int, params: SamplingParams) -> Pixels:
    """``count`` images of a prompt, uint8 [count, H, W, 3].

    Image i is a function of (seed, i) and the sampler, whatever ``count``.
    """
    state = policy.prefill(prompt, guided=params.cfg > 0)
    return policy.decode(policy.sample(state, len(policy.grids), image_seeds(seed, count), params)[1].tokens)


def generate_by_scale(policy: Policy, prompt: str, count: int, seed: int, params: SamplingParams) -> Iterator[Step]:
    """The same images after each scale, coarse to fine; the last step is what ``generate`` returns."""
    seeds, state, tokens = image_seeds(seed, count), policy.prefill(prompt, guided=params.cfg > 0), []
    for scale in range(len(policy.grids)):
        state, sampled = policy.sample(state, scale + 1, seeds, params)
        tokens.append(sampled.tokens)
        yield Step(scale, policy.decode_partial(torch.cat(tokens, 1)))


def image_seeds(seed: int, count: int) -> list[int]:
    """The 64-bit seeds of ``count`` images: those of a rollout job with this seed."""
    return [mix(seed, index, 0) for index in range(count)]


def arrange(images: Pixels) -> Pixels:
    """One picture uint8 [rows * H, columns * W, 3] of B images, row by row, nearly square.

    White where the last row is not full.
    """
    count, height, width, _ = images.shape
    columns = int(np.ceil(np.sqrt(count)))
    rows = -(-count // columns)
    sheet = np.full((rows * columns, height, width, 3), 255, np.uint8)
    sheet[:count] = images
    return sheet.reshape(rows, columns, height, width, 3).swapaxes(1, 2).reshape(rows * height, columns * width, 3)
