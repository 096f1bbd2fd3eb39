"""A stage of pretraining and its state on disk, so that a run that was cut off goes on where it was."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from varl.tiny.render import Rendered

Batch = Callable[[int, np.random.Generator], list[Rendered]]  # so many pictures


class Stateful(Protocol):
    """A module, an optimizer, or the statistics of a codebook."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values."""

    def load_state_dict(self, state: dict[str, Any], /) -> object:
        """Take over what ``state_dict`` gave."""


@dataclass(frozen=True)
class Stage:
    """How long a stage is, on what, and where its state is kept.

    draw: pictures of a step, ``batch`` of them; seed: of its random numbers; save_every_s: seconds between two saves.
    """

    draw: Batch
    steps: int
    batch: int
    seed: int
    state: Path
    log: Callable[[str], None]
    save_every_s: float = 120.0

    def left(self, **parts: Stateful) -> Iterator[tuple[int, np.random.Generator]]:
        """Load ``parts`` from disk if they are there; yields each step that is left, with its random numbers."""
        return _State(self.state, parts, self.save_every_s).steps(self.steps, self.seed)


class _State:
    """Parts of one stage and the number of steps they have taken, saved to one file every ``every_s`` seconds."""

    def __init__(self, path: Path, parts: Mapping[str, Stateful], every_s: float) -> None:
        self.path, self.parts, self.every_s = path, parts, every_s
        self._saved = time.monotonic()

    def steps(self, total: int, seed: int) -> Iterator[tuple[int, np.random.Generator]]:
        """The steps that are left, each with its own random numbers, which depend on ``seed`` and the step alone."""
        for step in range(self._resume(), total):
            torch.manual_seed(seed * 1_000_003 + step)
            yield step, np.random.default_rng([seed, step])
            if time.monotonic() - self._saved >= self.every_s:
                self.save(step + 1)
        self.save(total)

    def _resume(self) -> int:
        """Load the parts if the file is there; returns the number of steps that were taken, else 0."""
        if not self.path.exists():
            return 0
        state = torch.load(self.path, weights_only=True)
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
        return int(state["step"])

    def save(self, step: int) -> None:
        """Replace the file: it is whole at any time."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(".partial")
        torch.save({"step": step, **{name: part.state_dict() for name, part in self.parts.items()}}, partial)
        os.replace(partial, self.path)  # noqa: PTH105
        self._saved = time.monotonic()
