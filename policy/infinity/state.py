"""What the sampler remembers: keys and values of the scales sampled so far, and the sum of their codes; they fork."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from varl.policy.infinity.transformer import Text
from varl.policy.kv_cache import Segment, repeat, spread


@dataclass(frozen=True)
class Branch:
    """One branch's prompt, shared by every candidate, and the keys and values of each scale but the last."""

    text: Text
    scales: tuple[Segment, ...] = ()

    def fork(self, copies: int) -> Branch:
        """Repeat the scales for every candidate; those that all candidates share stay one row."""
        return replace(self, scales=tuple(spread(segment, copies) for segment in self.scales))


@dataclass(frozen=True)
class InfinityState:
    """The conditional and, with guidance, the unconditional branch, and the sum of codes float32 [B, bits, H, W]."""

    conditional: Branch
    unconditional: Branch | None
    canvas: Tensor | None = None
    next_scale: int = 0

    @property
    def batch(self) -> int:
        """Number of candidates; 1 before the first scale."""
        return 1 if self.canvas is None else len(self.canvas)

    def fork(self, copies: int) -> InfinityState:
        """Every candidate ``copies`` times, next to each other; nothing is recomputed.

        Raises:
            ValueError: nothing is sampled yet.
        """
        if self.canvas is None:
            raise ValueError("nothing is sampled yet: seeds share a prefilled state without forking it")
        branches = (self.conditional.fork(copies), self.unconditional and self.unconditional.fork(copies))
        return InfinityState(*branches, repeat(self.canvas, copies), self.next_scale)
