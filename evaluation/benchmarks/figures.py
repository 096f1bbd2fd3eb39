"""A benchmark's figures, overall and by group, each with its standard error over prompts."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from varl.evaluation.benchmarks.judge import Picture, Verdict
from varl.evaluation.estimates import Estimate, pooled_ratio

Figures = dict[str, float | int | None]
Pair = tuple[Picture, Verdict]
K = TypeVar("K")


def results(pictures: Sequence[Picture], verdicts: Sequence[Verdict], groups: str) -> dict[str, Any]:
    """Figures by the names of CVTG-2K's script.

    groups: the key of the figures by group. Several folders, one a seed, have figures of their own in
    ``seed_results``; all the others are over all of them.
    """
    pairs = list(zip(pictures, verdicts, strict=True))
    by_group = _grouped([pair for pair in pairs if pair[0].item.group], lambda picture: picture.item.group)
    by_folder = _grouped(pairs, lambda picture: str(picture.folder))
    record: dict[str, Any] = {"overall_results": summary(pairs)}
    if by_group:
        record[groups] = {name: summary(some) for name, some in by_group.items()}
    if len(by_folder) > 1:
        record["seed_results"] = {folder: summary(some) for folder, some in by_folder.items()}
    return record | {"failed": {verdict.image: verdict.error for verdict in verdicts if verdict.error}}


def area_results(pictures: Sequence[Picture], verdicts: Sequence[Verdict]) -> list[dict[str, Any]]:
    """CVTG-2K's figures as its script lists them: of each folder and number of text areas."""
    pairs = list(zip(pictures, verdicts, strict=True))
    parts = _grouped(pairs, lambda picture: Path(picture.item.image).parts[:2])
    return [{"area": int(area), "benchmark_type": folder} | summary(some) for (folder, area), some in parts.items()]


def _grouped(pairs: Sequence[Pair], key: Callable[[Picture], K]) -> dict[K, list[Pair]]:
    """By a picture's key, in the order in which keys first come."""
    groups = dict[K, list[Pair]]()
    for pair in pairs:
        groups.setdefault(key(pair[0]), []).append(pair)
    return groups


def summary(pairs: Sequence[Pair]) -> Figures:
    """Word Accuracy and NED pooled over target words, scores over images; None where nothing was judged.

    The prompt is the sampling unit of the standard errors, NAME_se: images of one prompt are not independent.
    """
    by_prompt = _grouped([pair for pair in pairs if not pair[1].error], lambda picture: picture.index)
    rows = [[verdict for _, verdict in some] for some in by_prompt.values()]
    judged = [verdict for row in rows for verdict in row]
    found = {
        "word_accuracy": _ratio([(sum(v.correct for v in row), sum(v.words for v in row)) for row in rows]),
        "ned": _ratio([(sum(v.ned for v in row), sum(v.words for v in row)) for row in rows]),
    } | {
        name: _ratio([(sum(v.scores[name] for v in row), len(row)) for row in rows])
        for name in dict.fromkeys(name for verdict in judged for name in verdict.scores)
    }
    totals: Figures = {
        "total_images": len(judged),
        "total_words": sum(verdict.words for verdict in judged),
        "correct_words": sum(verdict.correct for verdict in judged),
    }
    return {name: one.value if one else None for name, one in found.items()} | totals | _errors(found)


def _ratio(rows: Sequence[tuple[float, int]]) -> Estimate | None:
    sums, counts = (np.array(column, np.float64) for column in (zip(*rows, strict=True) if rows else ((), ())))
    return pooled_ratio(sums, counts) if counts.sum() > 0 else None


def _errors(figures: Mapping[str, Estimate | None]) -> Figures:
    return {
        f"{name}_se": found.error if found is not None and np.isfinite(found.error) else None
        for name, found in figures.items()
    }


def as_json(record: Mapping[str, Any]) -> str:
    """The record as it is written."""
    return json.dumps(record, indent=1, allow_nan=False) + "\n"
