"""The OCR reward as the shared service wants it: check, read, compare."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from PIL import Image as PILImage
from PIL import ImageDraw, ImageFont

from varl.services.ocr.engines.base import (
    EngineFailure,
    EngineUnavailableError,
    Image,
    OcrEngine,
    Reading,
    ReadWord,
    TooMuchText,
)
from varl.services.ocr.folding import same_form
from varl.services.ocr.reading import Request, read
from varl.services.ocr.reward import DEFAULT_FORMULA, FORMULAS, Formula, Recognized, Reward
from varl.services.ocr.targets import DEFAULT_RULE, resolve_targets
from varl.services.serving.batching.batcher import Batcher
from varl.services.serving.batching.queue import BatchLimits, ItemFailedError, UnavailableError
from varl.services.serving.scoring import (
    ErrorCode,
    ModelInfo,
    Outcome,
    SampleError,
    SampleScore,
    ScoredWord,
    ScorerSample,
    StartError,
)

GOLDEN_WORD = "READY"
MAX_TARGETS, MAX_READ = 256, 2048  # words
_FEW_PAIRS = 1024  # which the formulas compare in well under a millisecond
_log = logging.getLogger("varl.ocr")


def golden_image() -> Image:
    """GOLDEN_WORD in black on white, uint8 [64, 128, 3]."""
    picture = PILImage.new("RGB", (128, 64), "white")
    ImageDraw.Draw(picture).text((64, 32), GOLDEN_WORD, fill="black", font=ImageFont.load_default(28), anchor="mm")
    return np.asarray(picture)


class OCRScorer:
    """A ``Scorer`` over OCR engines, one per lane: OCR pipelines are not thread-safe (PaddleOCR#18268).

    ``limits`` bound how many images a lane is handed at a time, which it reads one after the other. ``strict``: weights
    that misread the golden word are refused, not just reported. ``rule``: the one of ``targets.RULES`` that finds the
    target words of a prompt that comes without. ``formula`` is that of requests that name none.
    """

    reward = "ocr"

    def __init__(
        self,
        build: Callable[[], OcrEngine],
        lanes: int,
        strict: bool,
        limits: BatchLimits,
        rule: str = DEFAULT_RULE,
        formula: str = DEFAULT_FORMULA,
    ) -> None:
        self._build = build
        self.formulas = (formula, *sorted(FORMULAS.keys() - {formula}))
        self._batcher: Batcher[Request, Reading] = Batcher(self._engine, limits, lanes)
        self._strict = strict
        self._rule = rule
        self._model = ModelInfo("", "", "")

    def _engine(self) -> Callable[[Sequence[Request]], list[Reading]]:
        engine = self._build()
        self._model = ModelInfo(engine.model.engine, engine.model.name, engine.model.revision)
        return partial(read, engine)

    @property
    def model(self) -> ModelInfo:
        """The loaded engine and weights; empty before ``start``."""
        return self._model

    @property
    def batcher(self) -> Batcher[Request, Reading]:
        """Runs the engines."""
        return self._batcher

    async def start(self) -> None:
        """Build the engines and read the golden word; raises StartError where that fails."""
        try:
            await self._batcher.start()
            reading = await self._read(Request(golden_image(), (GOLDEN_WORD,)))
        except (EngineUnavailableError, ItemFailedError, UnavailableError) as error:
            raise StartError(str(error)) from error
        if isinstance(reading, EngineFailure):
            raise StartError(f"the engine failed on the golden sample: {reading.detail}")
        text = " ".join(word.text for word in reading)
        if text.upper() != GOLDEN_WORD:
            self._misread(text)

    async def _read(self, request: Request, deadline: float | None = None) -> Reading:
        image = request.image
        return await self._batcher.submit(
            request, cost=image.shape[0] * image.shape[1], size=image.nbytes, deadline=deadline
        )

    def _misread(self, text: str) -> None:
        message = f"the golden word {GOLDEN_WORD!r} was read as {text!r}"
        if self._strict:
            raise StartError(message)
        _log.warning("%s: do these weights read Latin letters?", message)

    def check(self, prompt: str, target_words: tuple[str, ...]) -> SampleError | None:
        """A blank target word, no target at all, or more than are compared."""
        blank = next((index for index, word in enumerate(target_words) if not same_form(word).strip()), None)
        if blank is not None:
            return SampleError(ErrorCode.INVALID_FIELD, f"target_words[{blank}]: is blank")
        targets = len(resolve_targets(prompt, target_words, self._rule))
        if not targets:
            return SampleError(ErrorCode.NO_TARGET, "target_words: empty, and prompt: no text in quotes")
        if targets > MAX_TARGETS:
            detail = f"{targets} words, at most {MAX_TARGETS} are compared"
            return SampleError(ErrorCode.INVALID_FIELD, f"{'target_words' if target_words else 'prompt'}: {detail}")
        return None

    async def score(self, sample: ScorerSample, formula: str) -> Outcome:
        """The reward of one image by the named formula; "" is the first of ``formulas``.

        Raises what ``Batcher.submit`` does.
        """
        targets = resolve_targets(sample.prompt, sample.target_words, self._rule)
        reading = await self._read(Request(sample.pixels, targets), sample.deadline)
        if isinstance(reading, TooMuchText):
            return SampleError(ErrorCode.TOO_MUCH_TEXT, reading.detail)
        if isinstance(reading, EngineFailure):
            return SampleError(ErrorCode.ENGINE_FAILED, reading.detail)
        if len(reading) > MAX_READ:
            return SampleError(ErrorCode.TOO_MUCH_TEXT, f"image: {len(reading)} words, at most {MAX_READ} are compared")
        if not all(math.isfinite(word.confidence) for word in reading):
            return SampleError(ErrorCode.NOT_FINITE, "the recogniser's confidence is not a finite number")
        reward = await _compared(
            FORMULAS[formula or self.formulas[0]],
            targets,
            [Recognized(word.text, word.confidence) for word in reading],
        )
        return SampleScore(reward.value, reward.components, tuple(map(_scored, reading)))

    async def close(self) -> None:
        """End the engine threads."""
        await self._batcher.close()


async def _compared(formula: Formula, targets: Sequence[str], read: Sequence[Recognized]) -> Reward:
    """The formula's answer; where it compares many words with many, from a thread, as that takes long."""
    if len(targets) * len(read) <= _FEW_PAIRS:
        return formula(targets, read)
    return await asyncio.to_thread(formula, targets, read)


def _scored(word: ReadWord) -> ScoredWord:
    return ScoredWord(word.text, word.confidence, tuple(value for point in word.polygon for value in point))
