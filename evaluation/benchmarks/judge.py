"""Judges the images of a benchmark one by one, into a file that a run which was cut off goes on with."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image, UnidentifiedImageError
from pydantic import BaseModel, ConfigDict, ValidationError

from varl.evaluation.benchmarks.items import Item
from varl.evaluation.estimates import Array, Estimate, pooled_ratio
from varl.services.ocr.engines.base import EngineFailure, OcrEngine
from varl.services.ocr.metrics import ned_values, word_accuracy_counts

BATCH = 16
MAX_PIXELS = 2**26


class Verdict(BaseModel):
    """What was found of one image; ``error`` alone where it could not be judged."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    image: str
    read: tuple[str, ...] = ()  # words, lower-cased
    correct: int = 0
    words: int = 0
    ned: float = 0.0  # sum over target words
    clipscore: float | None = None
    error: str = ""


class TextImageScorer(Protocol):
    """Scores images for their prompts, as ClipScorer does."""

    def score(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[float]:
        """One number an image."""


def judge(
    items: Sequence[Item],
    images: Path,
    engine: OcrEngine,
    clip: TextImageScorer | None,
    min_confidence: float,
    log: Path,
    progress: Callable[[int], None],
) -> list[Verdict]:
    """A verdict for each item, in order; those in ``log`` are not looked for again, unless they were errors.

    min_confidence: lines read with less are left out. progress is told how many images are done. A missing or damaged
    image is a verdict with an error and in no figure.
    """
    known = _read_log(log, clip is not None)
    left = [item for item in items if item.image not in known]
    progress(len(items) - len(left))
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as file:
        for start in range(0, len(left), BATCH):
            for verdict in _judge_batch(left[start : start + BATCH], images, engine, clip, min_confidence):
                file.write(verdict.model_dump_json() + "\n")
                known[verdict.image] = verdict
            file.flush()
            progress(len(items) - len(left) + min(start + BATCH, len(left)))
    return [known[item.image] for item in items]


def _read_log(path: Path, with_clip: bool) -> dict[str, Verdict]:
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    found = dict[str, Verdict]()
    for line in lines:
        try:
            verdict = Verdict.model_validate_json(line)
        except ValidationError:  # the last line of a run that was cut off
            continue
        if not verdict.error and (verdict.clipscore is not None or not with_clip):
            found[verdict.image] = verdict
    return found


def _judge_batch(
    items: Sequence[Item], folder: Path, engine: OcrEngine, clip: TextImageScorer | None, min_confidence: float
) -> Iterable[Verdict]:
    opened = {item.image: _open(folder / item.image) for item in items}
    good = {name: image for name, image in opened.items() if isinstance(image, Image.Image)}
    scores = dict[str, float]()
    if clip is not None and good:
        prompts = [item.prompt for item in items if item.image in good]
        scores = dict(zip(good, clip.score(list(good.values()), prompts), strict=True))
    for item in items:
        image = opened[item.image]
        if isinstance(image, str):
            yield Verdict(image=item.image, error=image)
        else:
            yield _verdict(item, engine, image, min_confidence, scores.get(item.image))


def _verdict(
    item: Item, engine: OcrEngine, image: Image.Image, min_confidence: float, clipscore: float | None
) -> Verdict:
    (reading,) = engine.read([np.asarray(image)])
    if isinstance(reading, EngineFailure):
        return Verdict(image=item.image, error=reading.detail)
    read = [word.text for word in reading if word.confidence >= min_confidence]
    correct, words = word_accuracy_counts(item.targets, read)
    return Verdict(
        image=item.image,
        read=tuple(text.lower() for text in read),
        correct=correct,
        words=words,
        ned=float(sum(ned_values(item.targets, read))),
        clipscore=clipscore,
    )


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


def results(items: Sequence[Item], verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Figures overall and by group, by the names of CVTG-2K's script, each with its standard error over images."""
    areas = dict.fromkeys(item.group for item in items)
    pairs = list(zip(items, verdicts, strict=True))
    return {
        "overall_results": summary(verdicts),
        "area_results": {area: summary([one for item, one in pairs if item.group == area]) for area in areas},
        "failed": {verdict.image: verdict.error for verdict in verdicts if verdict.error},
    }


def summary(verdicts: Sequence[Verdict]) -> dict[str, float | int | None]:
    """Word Accuracy and NED pooled over target words, CLIPScore over images; None where nothing was judged."""
    judged = [one for one in verdicts if not one.error]
    words = np.array([one.words for one in judged], np.float64)
    clip = np.array([one.clipscore for one in judged if one.clipscore is not None], np.float64)
    figures = {
        "word_accuracy": _ratio(np.array([one.correct for one in judged], np.float64), words),
        "ned": _ratio(np.array([one.ned for one in judged], np.float64), words),
        "clipscore": _ratio(clip, np.ones(len(clip))),
    }
    totals: dict[str, float | int | None] = {
        "total_images": len(judged),
        "total_words": int(words.sum()),
        "correct_words": sum(one.correct for one in judged),
    }
    return {name: found.value if found else None for name, found in figures.items()} | totals | _errors(figures)


def _ratio(totals: Array, counts: Array) -> Estimate | None:
    return pooled_ratio(totals, counts) if counts.sum() > 0 else None


def _errors(figures: Mapping[str, Estimate | None]) -> dict[str, float | int | None]:
    return {
        f"{name}_se": found.error if found is not None and np.isfinite(found.error) else None
        for name, found in figures.items()
    }


def as_json(record: Mapping[str, Any]) -> str:
    """The record as it is written."""
    return json.dumps(record, indent=1, allow_nan=False) + "\n"
