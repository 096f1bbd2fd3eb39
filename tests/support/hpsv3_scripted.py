"""An HPSv3 engine that answers as a script says, and samples for it."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from varl.services.hpsv3.engine import Preference
from varl.services.hpsv3.faults import device_faults
from varl.services.serving.scoring import ErrorCode, ModelInfo, Pixels, SampleError, ScorerSample

POISON, HUGE, LOST, SLOW, LONG = 1, 2, 3, 4, 5  # value of an image's first pixel


@dataclass(frozen=True)
class Thing:
    value: int
    tokens: int = 10
    size: int = 100


class Scripted:
    """Scores an image by its first pixel.

    Some values break the forward of the whole batch, as a bad item breaks a real one.
    """

    model = ModelInfo("scripted", "none", "0")

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = threading.Event()
        self.started = threading.Event()
        self.preparing: set[int] = set()
        self.scoring: set[int] = set()

    def refusal(self, prompt: str) -> SampleError | None:
        return SampleError(ErrorCode.INVALID_FIELD, "prompt: no") if prompt == "no" else None

    def prepare(self, pixels: Pixels, prompt: str) -> Thing:
        self.preparing.add(threading.get_ident())
        if pixels[0, 0, 0] == LONG:
            raise ValueError("too long")
        return Thing(int(pixels[0, 0, 0]))

    def score(self, items: Sequence[Thing]) -> list[Preference]:
        self.scoring.add(threading.get_ident())
        values = [item.value for item in items]
        self.batches.append(values)
        if SLOW in values:
            self.started.set()
            self.gate.wait(20)
        if POISON in values:
            raise RuntimeError("poison")
        with device_faults():
            if HUGE in values and len(values) > 1:
                raise torch.OutOfMemoryError("CUDA out of memory")
            if LOST in values:
                raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return [Preference(float(value), -1.0) for value in values]


def sample(value: int) -> ScorerSample:
    return ScorerSample("a cat", np.full((8, 8, 3), value, np.uint8), ())
