"""Whether the insides of blocks are kept for the backward pass, or computed again on the way back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint, noop_context_fn

Recompute = Literal["long", "always", "never"]
Around = Callable[[], tuple[AbstractContextManager[Any], AbstractContextManager[Any]]]
LONG = 2**28  # values of all blocks' inputs; the insides are some twenty times as many


class Recomputes:
    """What modules inherit that can compute their blocks again on the way back, with the same gradients.

    recompute: in which passes with gradients they do so; "long": where the inputs of all blocks have more than ``long``
    values. around: contexts of a block's two computations.
    """

    recompute: Recompute = "long"
    long: float = LONG
    around: Around = staticmethod(noop_context_fn)

    def block_call(self, xs: Sequence[Tensor], blocks: int) -> Callable[..., Any]:
        """What calls a block's method with what it takes, in a pass of so many blocks that begins with ``xs``."""
        long = sum(x.numel() for x in xs) * blocks > self.long
        if torch.is_grad_enabled() and (self.recompute == "always" or (self.recompute == "long" and long)):
            return partial(checkpoint, use_reentrant=False, preserve_rng_state=False, context_fn=self.around)
        return _call


def _call(method: Callable[..., Any], *given: Any) -> Any:  # noqa: ANN401
    return method(*given)
