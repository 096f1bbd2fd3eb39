"""The Policy interface: what rollout workers and the trainer need of a next-scale image model, whatever its architecture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Grid = tuple[int, int]  # (height, width) of one scale, in tokens


@dataclass(frozen=True)
class SamplingParams:
    """How a token is drawn: logits / temperature, then top-k, then top-p (method.md section 3).

    Raises:
        ValueError: a value is out of range; the message names the field.
    """

    temperature: float = 1.0  # > 0, finite
    top_k: int = 0  # 0: off
    top_p: float = 1.0  # (0, 1]; 1: off
    cfg: float = 0.0  # guidance t at the last scale, logits = (1 + t) cond - t uncond; >= 0, finite; 0: off
    cfg_constant: bool = False  # False: t ramps linearly from 0 at the first scale to cfg at the last, as VAR samples

    def __post_init__(self) -> None:
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"temperature must be > 0 and finite, got {self.temperature}")
        if self.top_k < 0:
            raise ValueError(f"top_k must be >= 0, got {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be in (0, 1], got {self.top_p}")
        if not 0 <= self.cfg < math.inf:
            raise ValueError(f"cfg must be >= 0 and finite, got {self.cfg}")


@dataclass(frozen=True)
class Drawn:
    """Tokens of consecutive scales for a batch of B candidates.

    tokens: int64 [B, n], codes of the scales drawn, scale by scale, row by row.
    log_probs: float32 [B, n], log pi(token | prefix, prompt) of the conditional branch over the whole codebook at temperature 1,
        before guidance and truncation: what the trainer's teacher-forced pass gives (method.md section 9, point 10).
    """

    tokens: Tensor
    log_probs: Tensor


@dataclass(frozen=True)
class Layout:
    """What a policy's images and tokens are made of. A group of another layout comes from another model.

    grids: (height, width) of the T scales. height, width: pixels. codes: size of the codebook, 0 where every value of
    ``bits_per_site`` bits (1 to 64) is a code.
    """

    grids: tuple[Grid, ...]
    height: int
    width: int
    bits_per_site: int
    codes: int


class SamplerState(Protocol):
    """A KV cache over the text and the scales drawn so far, for B candidates of one prompt."""

    @property
    def next_scale(self) -> int:
        """Index (from 0) of the scale that is drawn next."""

    @property
    def batch(self) -> int:
        """B, the number of candidates."""

    def fork(self, copies: int) -> SamplerState:
        """Every candidate repeated ``copies`` times, next to each other: [a, b] -> [a, a, b, b]. Nothing is recomputed."""


class Policy(Protocol):
    """A next-scale text-to-image policy. Candidates of one call share one prompt."""

    @property
    def grids(self) -> tuple[Grid, ...]:
        """(height, width) of the T scales, coarse to fine."""

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of a decoded image in pixels."""

    @property
    def bits_per_site(self) -> int:
        """Bits that a token takes, 1 to 64: those of a codebook index, or the token itself where tokens are bitwise."""

    @property
    def codes(self) -> int:
        """Size of the codebook; 0 where every value of ``bits_per_site`` bits is a code."""

    def prefill(self, prompt: str, guided: bool) -> SamplerState:
        """Read the prompt once; ``guided`` also prepares the unconditional branch. The state has batch 1."""

    def draw(self, state: SamplerState, to_scale: int, seeds: Sequence[int], params: SamplingParams) -> tuple[SamplerState, Drawn]:
        """Draw scales ``state.next_scale`` … ``to_scale - 1`` for len(seeds) candidates.

        The seeds divide evenly among the state's candidates, in order: with batch 2 and four seeds the first two continue the first
        candidate, as fork(2) would have it, and what continuations share is computed once. A candidate's tokens depend only on the
        prompt, its prefix and its seed, never on its batch mates. Returns the state after the drawn scales (the one given
        stays valid) and what was drawn.
        """

    def decode(self, tokens: Tensor) -> npt.NDArray[np.uint8]:
        """Images uint8 [B, H, W, 3], RGB, of whole token sequences int64 [B, sum of h*w]."""

    def logits(self, prompt: str, tokens: Tensor, from_scale: int) -> Tensor:
        """Teacher-forced conditional logits, float32 [B, n, codes], of scales ``from_scale`` … to the end of ``tokens``.

        tokens: int64 [B, cells of scales 0 … t-1] for some t > from_scale, all of one prompt. n is the number of cells of scales
        from_scale … t-1. Differentiable in the parameters.
        """

    def load_weights(self, path: str) -> None:
        """Replace the trained weights by those of a safetensors file; unknown or missing names raise ValueError."""


def layout_of(policy: Policy) -> Layout:
    """The layout of a policy's images and tokens."""
    height, width = policy.image_size
    return Layout(tuple(policy.grids), height, width, policy.bits_per_site, policy.codes)


def cells(grids: Sequence[Grid]) -> list[int]:
    """Number of tokens of each scale."""
    return [h * w for h, w in grids]


def scale_of_token(grids: Sequence[Grid], device: torch.device | None = None) -> Tensor:
    """int64 [sum of h*w]: the scale index of every token of a whole sequence."""
    return torch.repeat_interleave(torch.arange(len(grids), device=device), torch.tensor(cells(grids), device=device))
