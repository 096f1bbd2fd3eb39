"""What every HPSv3 engine gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from varl.services.serving.scoring import ModelInfo, Pixels, SampleError


class EngineUnavailableError(Exception):
    """An engine cannot be built here; the message says what is missing and what to do."""


@dataclass(frozen=True)
class Preference:
    """The model's belief about an image: a normal distribution.

    Both numbers are unbounded and may be NaN or infinite.
    """

    mu: float
    log_sigma: float


class Prepared(Protocol):
    """An image and its prompt in the form that the engine's forward takes."""

    @property
    def tokens(self) -> int:
        """Length of the sequence: what the forward's time and memory grow with."""

    @property
    def size(self) -> int:
        """Bytes held."""


Item = TypeVar("Item", bound=Prepared)


class HPSv3Engine(Protocol[Item]):
    """Scores prepared items. ``score`` belongs to the thread that built the engine, the rest may be called from any."""

    @property
    def model(self) -> ModelInfo:
        """Engine with its dtype, name of the checkpoint, commit or digest of its weights."""

    def refusal(self, prompt: str) -> SampleError | None:
        """Why a prompt is not taken, before any work is spent on it."""

    def prepare(self, pixels: Pixels, prompt: str) -> Item:
        """An item of uint8 [H, W, 3] RGB pixels and a prompt that is not refused.

        Raises ValueError for an image that is too long.
        """

    def score(self, items: Sequence[Item]) -> list[Preference]:
        """One preference per item; an item's preference depends on the others by rounding alone.

        Raises:
            MemoryError: the batch did not fit into the device's memory.
            FatalModelError: the device can never work again in this process.

        """
