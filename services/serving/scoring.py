"""The seam between the shared service and a reward: samples in, a score or a typed error out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from varl.metadata import Metadata
from varl.services.serving.batching.batcher import Batcher

Pixels = npt.NDArray[np.uint8]  # [H, W, 3], RGB


class ErrorCode(StrEnum):
    """Why one sample has no score; the gRPC enum ERROR_CODE_… has the same names."""

    BAD_IMAGE = "bad_image"
    IMAGE_TOO_LARGE = "image_too_large"
    NO_TARGET = "no_target"
    PROMPT_TOO_LONG = "prompt_too_long"
    ENGINE_FAILED = "engine_failed"
    NOT_FINITE = "not_finite"
    INVALID_FIELD = "invalid_field"
    TOO_MUCH_TEXT = "too_much_text"


MODEL_FAULTS = (ErrorCode.ENGINE_FAILED, ErrorCode.NOT_FINITE)  # the rest are the sample's own


@dataclass(frozen=True)
class SampleError:
    """One sample's failure; the detail names the field and the limit."""

    code: ErrorCode
    detail: str


@dataclass(frozen=True)
class ScoredWord:
    """A word that was read: confidence in [0, 1], polygon x0 y0 x1 y1 … in pixels of the image."""

    text: str
    confidence: float
    polygon: tuple[float, ...]


@dataclass(frozen=True)
class Region:
    """Where in the image something is that the reward depends on.

    ``polygon`` as in ``ScoredWord``, at least three corners.
    """

    polygon: tuple[float, ...]
    label: str = ""


def polygon_fault(polygon: Sequence[float]) -> str | None:
    """Why these are not the corners x0 y0 x1 y1 … of a polygon; None where they are."""
    if len(polygon) < 6 or len(polygon) % 2:
        return f"{len(polygon)} numbers, want x and y of at least three corners"
    return None if all(map(math.isfinite, polygon)) else "a corner that is not finite"


@dataclass(frozen=True)
class SampleScore:
    """One sample's reward with the terms that make it up."""

    value: float
    components: Mapping[str, float] = field(default_factory=dict)
    words: tuple[ScoredWord, ...] = ()
    regions: tuple[Region, ...] = ()


Outcome = SampleScore | SampleError


@dataclass(frozen=True)
class RawSample:
    """A sample as it came in; ``image`` is a whole PNG, JPEG or WebP file, or the reason why there are no bytes.

    ``metadata`` is not checked yet, or the reason why it cannot be read.
    """

    id: str
    prompt: str
    image: bytes | SampleError
    target_words: tuple[str, ...] = ()
    metadata: Metadata | SampleError = field(default_factory=dict)


@dataclass(frozen=True)
class ScorerSample:
    """A sample that passed every check, its image decoded; ``deadline`` is on the monotonic clock.

    ``metadata`` is what the caller gave beside the prompt (varl.metadata has its bounds), {} where
    nothing.
    """

    prompt: str
    pixels: Pixels
    target_words: tuple[str, ...]
    deadline: float | None = None
    metadata: Metadata = field(default_factory=dict)
    id: str = ""


@dataclass(frozen=True)
class ModelInfo:
    """Which engine and weights answered."""

    engine: str
    name: str
    revision: str


@dataclass(frozen=True)
class ScoreBatch:
    """A request as both protocols hand it on.

    Formula "" is the service's default, ``deadline`` is on the monotonic clock.
    """

    samples: tuple[RawSample, ...]
    formula: str = ""
    deadline: float | None = None


@dataclass(frozen=True)
class BatchResult:
    """Outcomes in the order of the samples."""

    ids: tuple[str, ...]
    outcomes: tuple[Outcome, ...]
    model: ModelInfo = field(kw_only=True)


class Scorer(Protocol):
    """A reward model. Samples come one by one and many at a time; the scorer submits them to its batcher."""

    @property
    def reward(self) -> str:
        """Name of the reward, for example "ocr"."""

    @property
    def formulas(self) -> tuple[str, ...]:
        """Names of the formulas on offer, the default first."""

    @property
    def model(self) -> ModelInfo:
        """The loaded model; valid after ``start``."""

    @property
    def batcher(self) -> Batcher[Any, Any]:
        """Runs the model; its errors pass through ``score``."""

    async def start(self) -> None:
        """Load the model and prove it on a golden sample; raises StartError where that fails."""

    def check(self, prompt: str, target_words: tuple[str, ...]) -> SampleError | None:
        """What is wrong with a sample apart from its image, before any work is spent on it."""

    async def score(self, sample: ScorerSample, formula: str) -> Outcome:
        """The outcome of one sample; cancelling it drops the sample if no model holds it yet.

        Raises:
            ItemFailedError, LateError, QueueFullError, UnavailableError: as ``Batcher.submit`` does.

        """

    async def close(self) -> None:
        """Free the model."""


class StartError(Exception):
    """A scorer cannot start; the message is meant for the operator."""
