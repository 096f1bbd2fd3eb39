"""What scores a benchmark's images beside the OCR engine: CLIP, and any reward service."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Protocol

from PIL import Image

from varl.client import Outcome, RewardClient, Score

Scored = dict[str, float] | str  # figures by name, or why there are none


class Scorer(Protocol):
    """Scores images for their prompts, by one or several names."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the figures that every image gets."""

    @property
    def identity(self) -> str:
        """Which model gives them: scores of one identity are not taken for those of another."""

    def score(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[Scored]:
        """Figures for each image."""


class TextImageScorer(Protocol):
    """One figure an image, as ClipScorer gives it."""

    @property
    def name(self) -> str:
        """Folder or hub name of its model."""

    def score(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[float]:
        """One number an image."""


class Named:
    """A scorer of one figure under a name."""

    def __init__(self, name: str, scorer: TextImageScorer) -> None:
        self.names, self.identity, self._scorer = (name,), f"{name} by {scorer.name}", scorer

    def score(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[Scored]:
        """See Scorer.score."""
        return [{self.names[0]: value} for value in self._scorer.score(images, prompts)]


class RewardScorer:
    """All rewards of a service or gateway. where: its address, or what was started to be it.

    Raises:
        RewardError: the service does not answer.
    """

    def __init__(self, client: RewardClient, where: str) -> None:
        self._client, self.names = client, client.info().rewards
        self.identity = f"{', '.join(self.names)} of {where}"

    def score(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[Scored]:
        """See Scorer.score; an image that a reward has no score for gets none from the others either."""
        found = self._client.score([_png(image) for image in images], prompts)
        rows = zip(*(scores.outcomes for scores in found.values()), strict=True)
        return [_figures(dict(zip(found, row, strict=True))) for row in rows]


def _figures(outcomes: dict[str, Outcome]) -> Scored:
    scores = {name: outcome.value for name, outcome in outcomes.items() if isinstance(outcome, Score)}
    for name, outcome in outcomes.items():
        if not isinstance(outcome, Score):
            return f"{name}: {outcome.code}: {outcome.detail}"
    return scores


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
