"""A scorer of brightness for ScoringService that a test can hold, and batches for it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import numpy as np

from tests.support.ocr_builders import png
from varl.services.serving.batching.batcher import Batcher
from varl.services.serving.batching.forward import Model
from varl.services.serving.batching.queue import FatalModelError
from varl.services.serving.scoring import (
    ModelInfo,
    Outcome,
    Pixels,
    RawSample,
    SampleError,
    SampleScore,
    ScoreBatch,
    ScorerSample,
)
from varl.services.serving.settings import ServingSettings

POISON, FATAL = 200, 201


class BrightnessScorer:
    """The value of the first pixel; 200 is poison, 201 ends the model. ``gate`` holds every forward."""

    reward = "brightness"
    formulas = ("plain",)
    model = ModelInfo("test", "brightness", "0")

    def __init__(self, settings: ServingSettings, max_items: int) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.forwards: list[list[int]] = []
        self.batcher: Batcher[Pixels, float] = Batcher(self.build, settings.batch_limits(max_items))

    def build(self) -> Model[Pixels, float]:
        return self.run

    def run(self, images: Sequence[Pixels]) -> list[float]:
        values = [int(image[0, 0, 0]) for image in images]
        self.forwards.append(values)
        self.gate.wait(60)
        if FATAL in values:
            raise FatalModelError("gone")
        if POISON in values:
            raise ValueError("poison")
        return [float("nan") if value == 99 else float(value) for value in values]

    async def start(self) -> None:
        await self.batcher.start()

    def check(self, prompt: str, target_words: tuple[str, ...]) -> SampleError | None:
        return None

    async def score(self, sample: ScorerSample, formula: str) -> Outcome:
        return SampleScore(await self.batcher.submit(sample.pixels, deadline=sample.deadline), {})

    async def close(self) -> None:
        await self.batcher.close()


def batch(*values: int, deadline: float | None = None) -> ScoreBatch:
    images = [png(np.full((8, 8, 3), value, np.uint8)) for value in values]
    return ScoreBatch(tuple(RawSample(str(index), "", image) for index, image in enumerate(images)), deadline=deadline)


async def until_in_model(scorer: BrightnessScorer) -> None:
    while not scorer.forwards:  # noqa: ASYNC110
        await asyncio.sleep(0)
