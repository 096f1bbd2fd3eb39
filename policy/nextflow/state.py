"""What the sampler remembers: keys and values of the text and of the scales sampled so far; they fork."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from varl.policy.kv_cache import KVCache, repeat


@dataclass(frozen=True)
class Branch:
    """One branch of one prompt: keys and values of its text and of the scales but the last.

    cache: of fewer candidates than the prompt has, dividing them in order, where some share all that it holds. hidden:
    [1, dim] at <boi>; counter: position of <boi>.
    """

    cache: KVCache
    hidden: Tensor
    counter: int


@dataclass(frozen=True)
class NextFlowState:
    """Every prompt's conditional and then, with guidance, every one's unconditional branch, and the last scale's codes.

    prompts: how many there are; they divide the candidates in order.
    """

    branches: tuple[Branch, ...]
    prompts: int = 1
    last: Tensor | None = None  # int64 [B, h, w]
    next_scale: int = 0

    @property
    def batch(self) -> int:
        """Number of candidates; before the first scale one a prompt."""
        return self.prompts if self.last is None else int(self.last.shape[0])

    def fork(self, copies: int) -> NextFlowState:
        """Every candidate ``copies`` times, next to each other; nothing is recomputed.

        Keys and values are copied when the fork is continued, and not before.

        Raises:
            ValueError: nothing is sampled yet.
        """
        if self.last is None:
            raise ValueError("nothing is sampled yet: seeds share a prefilled state without forking it")
        return replace(self, last=repeat(self.last, copies))
