"""Judges the images of a benchmark one by one, into a file that a run which was cut off goes on with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError
from pydantic import BaseModel, ConfigDict, ValidationError

from varl.evaluation.benchmarks.items import Item
from varl.evaluation.benchmarks.scorers import Scored, Scorer
from varl.services.ocr.engines.base import EngineFailure, OcrEngine
from varl.services.ocr.metrics import ned_values, word_accuracy_counts

BATCH = 16
MAX_PIXELS = 2**26
ENDINGS = (".png", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True)
class Picture:
    """An image of a prompt. folder: that of its seed; index: of the prompt."""

    item: Item
    folder: Path
    index: int

    @cached_property
    def path(self) -> Path:
        """Where it is, as .png where it has none of the endings yet."""
        path = self.folder / self.item.image
        return next((one for one in map(path.with_suffix, ENDINGS) if one.exists()), path)


class Verdict(BaseModel):
    """What was found of one image; ``error`` alone where it could not be judged."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    image: str
    read: tuple[str, ...] = ()  # words, lower-cased
    correct: int = 0
    words: int = 0
    ned: float = 0.0  # sum over target words
    scores: dict[str, float] = {}
    error: str = ""


def pictures_of(items: Sequence[Item], folders: Sequence[Path]) -> list[Picture]:
    """Every prompt's image in every folder, a prompt's next to each other."""
    return [Picture(item, folder, index) for index, item in enumerate(items) for folder in folders]


class Judge:
    """What looks at the images: an OCR engine for prompts with target words, and scorers.

    min_confidence: lines read with less are left out.
    """

    def __init__(self, engine: OcrEngine | None, scorers: Sequence[Scorer], min_confidence: float) -> None:
        self._engine, self._scorers, self._min_confidence = engine, scorers, min_confidence

    def judge(self, pictures: Sequence[Picture], log: Path, progress: Callable[[int], None]) -> list[Verdict]:
        """A verdict for each picture, in order; those in ``log`` are not judged again, unless they were errors.

        progress is told how many images are done. A missing or damaged image is a verdict with an error and in no
        figure.
        """
        known = self._read_log(log)
        left = [picture for picture in pictures if str(picture.path) not in known]
        progress(len(pictures) - len(left))
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a", encoding="utf-8") as file:
            for start in range(0, len(left), BATCH):
                for verdict in self._judge_batch(left[start : start + BATCH]):
                    file.write(verdict.model_dump_json() + "\n")
                    known[verdict.image] = verdict
                file.flush()
                progress(len(pictures) - len(left) + min(start + BATCH, len(left)))
        return [known[str(picture.path)] for picture in pictures]

    def _read_log(self, path: Path) -> dict[str, Verdict]:
        lines = path.read_text(encoding="utf-8").split("\n") if path.exists() else []  # texts may hold other breaks
        names = {name for scorer in self._scorers for name in scorer.names}
        found = dict[str, Verdict]()
        for line in lines:
            try:
                verdict = Verdict.model_validate_json(line)
            except ValidationError:  # the last line of a run that was cut off
                continue
            if not verdict.error and names <= verdict.scores.keys():
                found[verdict.image] = verdict
        return found

    def _judge_batch(self, pictures: Sequence[Picture]) -> Iterable[Verdict]:
        opened = {picture: _open(picture.path) for picture in pictures}
        good = {picture: image for picture, image in opened.items() if isinstance(image, Image.Image)}
        scored = dict(zip(good, self._scores(list(good), list(good.values())), strict=True))
        for picture, image in opened.items():
            found = image if isinstance(image, str) else scored[picture]
            if isinstance(image, str) or isinstance(found, str):
                yield Verdict(image=str(picture.path), error=str(found))
            else:
                yield self._verdict(picture, image, found)

    def _scores(self, pictures: Sequence[Picture], images: Sequence[Image.Image]) -> list[Scored]:
        merged: list[Scored] = [{} for _ in pictures]
        for scorer in self._scorers if pictures else ():
            rows = scorer.score(images, [picture.item.prompt for picture in pictures])
            merged = [_merge(one, other) for one, other in zip(merged, rows, strict=True)]
        return merged

    def _verdict(self, picture: Picture, image: Image.Image, scores: dict[str, float]) -> Verdict:
        targets, name = picture.item.targets, str(picture.path)
        if self._engine is None or not targets:
            return Verdict(image=name, scores=scores)
        (reading,) = self._engine.read([np.asarray(image)])
        if isinstance(reading, EngineFailure):
            return Verdict(image=name, error=reading.detail)
        read = [word.text for word in reading if word.confidence >= self._min_confidence]
        correct, words = word_accuracy_counts(targets, read)
        return Verdict(
            image=name,
            read=tuple(text.lower() for text in read),
            correct=correct,
            words=words,
            ned=float(sum(ned_values(targets, read))),
            scores=scores,
        )


def _merge(one: Scored, other: Scored) -> Scored:
    return one if isinstance(one, str) else other if isinstance(other, str) else one | other


def _open(path: Path) -> Image.Image | str:
    """The image as RGB, or why there is none."""
    try:
        with Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                return f"{image.width} x {image.height}: more than {MAX_PIXELS} pixels"
            return image.convert("RGB")
    except FileNotFoundError:
        return "there is no such image"
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        return f"{type(error).__name__}: {error}"
