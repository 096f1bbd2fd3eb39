"""An exponential moving average of the trained weights, to evaluate and to keep."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from varl.launch.supervisor import postponed
from varl.trainer.step.spread import spread_like


class WeightAverage:
    """Averages of a module's trained parameters, in float32; ``decay`` is an update's, in [0, 1).

    In bfloat16 an average would stay where it is: what an update adds to it is less than half its rounding.

    Where the parameters are spread over processes, so are their averages, and each process moves its own part.
    """

    def __init__(self, module: torch.nn.Module, decay: float) -> None:
        self._module, self._decay, self._applied = module, decay, False
        self._aside: dict[str, Tensor] = {}  # own weights that are not in float32, while the averages are applied
        self.weights: dict[str, Tensor] = {name: value.to(torch.float32, copy=True) for name, value in _weights(module)}

    @torch.no_grad()
    def update(self) -> None:
        """Move every average towards its weight: decay * average + (1 - decay) * weight."""
        for name, value in _weights(self._module):
            self.weights[name].lerp_(value.float(), 1 - self._decay)

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Take over averages that were saved. Raises KeyError where one is missing."""
        for name, value in self.weights.items():
            value.copy_(spread_like(weights[name], value))

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within the context the module holds the averages."""
        try:
            self.exchange()
            yield
        finally:
            if self._applied:
                self.exchange()

    @torch.no_grad()
    def exchange(self) -> None:
        """Let module and averages change places, all or none: SIGTERM, on which weights are saved, waits meanwhile."""
        with postponed((signal.SIGTERM,)):
            for name, value in _weights(self._module):
                self._exchange_one(name, value)
            self._applied = not self._applied

    def _exchange_one(self, name: str, value: Tensor) -> None:
        own = self._aside.pop(name) if name in self._aside else value.clone()
        if value.dtype == torch.float32:  # in place of one another, which takes no room
            value.copy_(self.weights[name])
            self.weights[name] = own
        elif self._applied:
            value.copy_(own)
        else:  # the module holds the averages rounded, so they stay here as they are
            value.copy_(self.weights[name])
            self._aside[name] = own


def _weights(module: torch.nn.Module) -> list[tuple[str, Tensor]]:
    return [(name, value.detach()) for name, value in module.named_parameters() if value.requires_grad]
