"""What the sampler remembers: keys and values of the scales sampled so far, and the sum of their codes; they fork."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from varl.policy.infinity.transformer import Prompt
from varl.policy.kv_cache import KVCache, repeat


@dataclass(frozen=True)
class Branch:
    """One branch of one prompt: the prompt, shared by its candidates, and keys and values of each scale but the last.

    cache: of fewer candidates than the prompt has, dividing them in order, where some share all that it holds.
    """

    prompt: Prompt
    cache: KVCache


@dataclass(frozen=True)
class InfinityState:
    """Every prompt's conditional and then, with guidance, every one's unconditional branch, and the sum of codes.

    prompts: how many there are; they divide the candidates in order. canvas: the sum, float32 [B, bits, H, W].
    """

    branches: tuple[Branch, ...]
    prompts: int = 1
    canvas: Tensor | None = None
    next_scale: int = 0

    @property
    def batch(self) -> int:
        """Number of candidates; before the first scale one a prompt."""
        return self.prompts if self.canvas is None else len(self.canvas)

    def fork(self, copies: int) -> InfinityState:
        """Every candidate ``copies`` times, next to each other; nothing is recomputed.

        Keys and values are copied when the fork is continued, and not before.

        Raises:
            ValueError: nothing is sampled yet.
        """
        if self.canvas is None:
            raise ValueError("nothing is sampled yet: seeds share a prefilled state without forking it")
        return replace(self, canvas=repeat(self.canvas, copies))
