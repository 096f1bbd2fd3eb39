"""Judges the images of a benchmark one by one, into a file that a run which was cut off goes on with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError
from pydantic import BaseModel, ConfigDict, ValidationError

from varl.evaluation.benchmarks.items import Item
from varl.evaluation.benchmarks.scorers import Scored, Scorer
from varl.services.ocr.engines.base import EngineFailure, OcrEngine
from varl.services.ocr.metrics import ned_values, word_accuracy_counts
from varl.trajectories.weight_files import file_digest

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
    """What was found of one image; ``error`` alone where it could not be judged.

    basis: digest of what it was found from, the file and its prompt, and of what judged it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    image: str
    basis: str = ""
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
        reader = astuple(engine.model) if engine else ()
        self._identity = json.dumps([*reader, min_confidence, *(scorer.identity for scorer in scorers)])

    def judge(self, pictures: Sequence[Picture], log: Path, progress: Callable[[int], None]) -> list[Verdict]:
        """A verdict for each picture, in order.

        One that ``log`` has is not made again, unless it was an error or the image, its prompt or the judge has
        changed. progress is told how many images are done. A missing or damaged image is a verdict with an error and in
        no figure.
        """
        known = self._read_log(log)
        bases = {picture: self._basis(picture) for picture in pictures}
        left = [picture for picture in pictures if not _is_of(known.get(str(picture.path)), bases[picture])]
        progress(len(pictures) - len(left))
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a", encoding="utf-8") as file:
            for start in range(0, len(left), BATCH):
                batch = left[start : start + BATCH]
                for picture, found in zip(batch, self._judge_batch(batch), strict=True):
                    verdict = found.model_copy(update={"basis": bases[picture]})
                    file.write(verdict.model_dump_json() + "\n")
                    known[verdict.image] = verdict
                file.flush()
                progress(len(pictures) - len(left) + min(start + BATCH, len(left)))
        return [known[str(picture.path)] for picture in pictures]

    def _basis(self, picture: Picture) -> str:
        """See Verdict; "" where there is no file."""
        try:
            image = file_digest(picture.path)
        except OSError:
            return ""
        parts = [self._identity, picture.item.prompt, *picture.item.targets, image]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def _read_log(self, path: Path) -> dict[str, Verdict]:
        lines = path.read_text(encoding="utf-8").split("\n") if path.exists() else []  # texts may hold other breaks
        found = dict[str, Verdict]()
        for line in lines:
            try:
                verdict = Verdict.model_validate_json(line)
            except ValidationError:  # the last line of a run that was cut off
                continue
            if not verdict.error:
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


def _is_of(verdict: Verdict | None, basis: str) -> bool:
    return verdict is not None and bool(basis) and verdict.basis == basis


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
