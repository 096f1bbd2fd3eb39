"""Reading pictures whose target words are known: a second, closer look only where the first leaves a target unread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from varl.services.ocr.engines.base import EngineFailure, Image, OcrEngine, Reading, ReadsCloser
from varl.services.ocr.reward import Recognized, all_read


@dataclass(frozen=True)
class Request:
    """A picture, uint8 [H, W, 3] RGB, and the words that it should show."""

    image: Image
    targets: tuple[str, ...]


def read(engine: OcrEngine, requests: Sequence[Request]) -> list[Reading]:
    """One reading per picture, which depends on that picture and its targets alone."""
    first = engine.read([request.image for request in requests])
    if not isinstance(engine, ReadsCloser) or len(first) != len(requests):  # the batcher refuses the latter
        return first
    return [_explained(engine, request, found) for request, found in zip(requests, first, strict=True)]


def _explained(engine: ReadsCloser, request: Request, first: Reading) -> Reading:
    if isinstance(first, EngineFailure):
        return first
    if all_read(request.targets, [Recognized(word.text, word.confidence) for word in first]):
        return first
    return engine.read_closer(request.image, first)
