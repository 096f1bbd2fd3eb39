"""A reward service like the real ones around a model of a given cost, so that everything else is measured."""

from __future__ import annotations

import time
from collections.abc import Sequence

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from varl.services.serving.batching.batcher import Batcher
from varl.services.serving.batching.queue import FatalModelError
from varl.services.serving.runner import run
from varl.services.serving.scoring import ModelInfo, Outcome, SampleError, SampleScore, ScorerSample
from varl.services.serving.settings import ServingSettings, parse_settings

POISON = "poison"  # the prompt on which the model fails
FATAL = "fatal"  # the prompt on which it is lost for good


class ToySettings(ServingSettings):
    """A reward that says how bright an image is."""

    model_config = SettingsConfigDict(env_prefix="VARL_TOY_", cli_prog_name="python -m benchmarks.serving.toy_service")

    batch: int = Field(16, ge=1, description="Images of one forward at most.")
    wait_ms: float = Field(0.0, ge=0, description="How long a free model waits for a fuller batch.")
    forward_ms: float = Field(0.0, ge=0, description="What every forward takes.")
    image_ms: float = Field(0.0, ge=0, description="What each image adds to that.")


class ToyScorer:
    """Brightness of the first pixel, 0 to 1."""

    reward = "toy"
    formulas = ("plain",)
    model = ModelInfo("none", "brightness", "0")

    def __init__(self, settings: ToySettings) -> None:
        self._settings = settings
        limits = settings.batch_limits(settings.batch, max_wait=settings.wait_ms / 1000)
        self.batcher: Batcher[ScorerSample, float] = Batcher(lambda: self._forward, limits)

    async def start(self) -> None:
        await self.batcher.start()

    def check(self, prompt: str, target_words: tuple[str, ...]) -> SampleError | None:
        return None

    async def score(self, sample: ScorerSample, formula: str) -> Outcome:
        return SampleScore(await self.batcher.submit(sample, size=sample.pixels.nbytes, deadline=sample.deadline), {})

    async def close(self) -> None:
        await self.batcher.close()

    def _forward(self, samples: Sequence[ScorerSample]) -> list[float]:
        milliseconds = self._settings.forward_ms + len(samples) * self._settings.image_ms
        if milliseconds:
            time.sleep(milliseconds / 1000)
        if any(sample.prompt == POISON for sample in samples):
            raise ValueError("poison")
        if any(sample.prompt == FATAL for sample in samples):
            raise FatalModelError("an illegal memory access")
        return [int(sample.pixels[0, 0, 0]) / 255 for sample in samples]


def main() -> int:
    """Serve until told to stop."""
    settings = parse_settings(ToySettings)
    return run(settings, ToyScorer(settings))


if __name__ == "__main__":
    raise SystemExit(main())
