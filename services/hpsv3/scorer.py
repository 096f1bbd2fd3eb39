"""The HPSv3 reward as the shared service wants it: check, prepare on threads of its own, score in batches."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from varl.services.hpsv3.engine import EngineUnavailableError, HPSv3Engine, Preference, Prepared
from varl.services.hpsv3.golden import PICTURES, PROMPT, Golden, read_golden
from varl.services.serving.batching.batcher import Batcher
from varl.services.serving.batching.queue import BatchLimits, ItemFailedError, UnavailableError
from varl.services.serving.scoring import (
    ErrorCode,
    ModelInfo,
    Outcome,
    Pixels,
    SampleError,
    SampleScore,
    ScorerSample,
    StartError,
)


class _Raw(NamedTuple):
    pixels: Pixels
    prompt: str


class HPSv3Scorer:
    """A ``Scorer`` over one engine.

    Images are resized and prompts tokenised on ``threads`` threads while the engine's own thread is in a forward. A
    batch's cost is its tokens. ``golden_folder`` is where a golden file may stand; without one the golden pictures must
    have finite scores.
    """

    reward = "hpsv3"
    formulas = ("mu",)

    def __init__(
        self,
        build: Callable[[], HPSv3Engine[Any]],
        limits: BatchLimits,
        threads: int,
        dtype: str,
        golden_folder: Path | None,
    ) -> None:
        self._build = build
        self._batcher: Batcher[Prepared, Preference] = Batcher(self._forward, limits)
        singly = BatchLimits(queue_items=limits.queue_items, queue_bytes=limits.queue_bytes)
        self._preparer: Batcher[_Raw, Prepared | SampleError] = Batcher(lambda: self._prepare, singly, threads)
        self._dtype = dtype
        self._golden_folder = golden_folder
        self._engine: HPSv3Engine[Any] | None = None

    def _forward(self) -> Callable[[Sequence[Prepared]], list[Preference]]:
        self._engine = self._build()
        return self._engine.score

    @property
    def _loaded(self) -> HPSv3Engine[Any]:
        if self._engine is None:
            raise RuntimeError("the scorer is not started")
        return self._engine

    @property
    def model(self) -> ModelInfo:
        """The loaded engine and weights; empty before ``start``."""
        return self._engine.model if self._engine else ModelInfo("", "", "")

    @property
    def batcher(self) -> Batcher[Prepared, Preference]:
        """Runs the engine."""
        return self._batcher

    async def start(self) -> None:
        """Build the engine and score the golden sample; raises StartError where that fails."""
        try:
            expected = read_golden(self._golden_folder) if self._golden_folder else None
            await self._batcher.start()
            await self._preparer.start()
            await self._prove(expected)
        except (EngineUnavailableError, ItemFailedError, UnavailableError, ValueError) as error:
            raise StartError(str(error)) from error

    async def _prove(self, expected: Golden | None) -> None:
        for name, draw in PICTURES.items():
            found = await self._preference(_Raw(draw(), PROMPT), None)
            if isinstance(found, SampleError) or not math.isfinite(found.mu) or not math.isfinite(found.log_sigma):
                raise StartError(f"the golden sample {name!r} has no score: {found}")
        if expected:
            found = await self._preference(_Raw(PICTURES[expected.image](), expected.prompt), None)
            difference = found.detail if isinstance(found, SampleError) else expected.difference(found, self._dtype)
            if difference:
                raise StartError(f"the weights do not score the golden sample as they should: {difference}")

    def check(self, prompt: str, target_words: tuple[str, ...]) -> SampleError | None:
        """A blank prompt, a control token of the model in it, or too long a prompt."""
        if not prompt.strip():
            return SampleError(
                ErrorCode.INVALID_FIELD, "prompt: is blank, and this reward judges an image by its prompt"
            )
        return self._loaded.refusal(prompt)

    async def score(self, sample: ScorerSample, formula: str) -> Outcome:
        """The preference for one image, mu being its value; raises what ``Batcher.submit`` does."""
        found = await self._preference(_Raw(sample.pixels, sample.prompt), sample.deadline)
        if isinstance(found, SampleError):
            return found
        return SampleScore(found.mu, {"mu": found.mu, "log_sigma": found.log_sigma})

    async def _preference(self, raw: _Raw, deadline: float | None) -> Preference | SampleError:
        prepared = await self._preparer.submit(raw, size=raw.pixels.nbytes, deadline=deadline)
        if isinstance(prepared, SampleError):
            return prepared
        return await self._batcher.submit(prepared, cost=prepared.tokens, size=prepared.size, deadline=deadline)

    def _prepare(self, raws: Sequence[_Raw]) -> list[Prepared | SampleError]:
        """On a preparing thread."""
        return [self._prepare_one(raw) for raw in raws]

    def _prepare_one(self, raw: _Raw) -> Prepared | SampleError:
        try:
            prepared: Prepared = self._loaded.prepare(raw.pixels, raw.prompt)
        except ValueError as error:
            return SampleError(ErrorCode.IMAGE_TOO_LARGE, f"image: {error}")
        return prepared

    async def close(self) -> None:
        """End the threads."""
        await self._preparer.close()
        await self._batcher.close()
