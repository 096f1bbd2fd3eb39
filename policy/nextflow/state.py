"""What the sampler remembers.

Keys and values of the text and of the scales sampled so far, a pair for each layer, which fork.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from varl.policy.kv_cache import Segment, repeat, spread


@dataclass(frozen=True)
class Branch:
    """One branch's cache.

    text: batch 1, shared by every candidate; hidden: [1, dim] at <boi>; counter: position of <boi>.
    """

    text: Segment
    hidden: Tensor
    counter: int
    scales: tuple[Segment, ...] = ()

    def fork(self, copies: int) -> Branch:
        """Repeat the visual part for every candidate.

        What all candidates share (the text, a common prefix) stays one row.
        """
        return replace(self, scales=tuple(spread(segment, copies) for segment in self.scales))


@dataclass(frozen=True)
class NextFlowState:
    """Caches of the conditional and, with guidance, the unconditional branch, and the last sampled scale's codes."""

    conditional: Branch
    unconditional: Branch | None
    last: Tensor | None = None  # int64 [B, h, w]
    next_scale: int = 0

    @property
    def batch(self) -> int:
        """Number of candidates; 1 before the first scale."""
        return 1 if self.last is None else int(self.last.shape[0])

    def fork(self, copies: int) -> NextFlowState:
        """Every candidate ``copies`` times, next to each other; nothing is recomputed."""
        if self.last is None:
            raise ValueError("nothing is sampled yet: seeds share a prefilled state without forking it")
        uncond = self.unconditional and self.unconditional.fork(copies)
        return replace(
            self, conditional=self.conditional.fork(copies), unconditional=uncond, last=repeat(self.last, copies)
        )
