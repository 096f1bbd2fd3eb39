"""What tests of a study are made of: a plan, results without a run, points of a curve."""

from __future__ import annotations

from typing import Any

from tests.support.paths import ROOT
from varl.studies.study.plan import Study
from varl.studies.study.results import Point, RunResult


def plan(**fields: Any) -> Study:  # noqa: ANN401
    defaults: dict[str, Any] = {
        "name": "s",
        "recipe": ROOT / "recipes" / "tiny_demo.toml",
        "seeds": (0, 1),
        "images": 6912,
        "arms": {"a": {}, "b": {"learning_rate": 1e-5, "seeds": [1]}},
        "measure": "word_accuracy",
        "tuning": {"learning_rates": [1e-6, 1e-5], "seed": 9, "held_out": "tune.jsonl", "images": 1024},
    }
    return Study.model_validate(defaults | fields)


def result(arm: str, seed: int, value: float, rate: float = 1e-5, **fields: Any) -> RunResult:  # noqa: ANN401
    defaults: dict[str, Any] = {
        "tuning": False, "images": 100, "seconds": 60.0, "curve": (),
        "figures": {"T=1": {"word_accuracy": value, "reward/ocr": 1.0}, "greedy": {"word_accuracy": value + 0.1}},
    }  # fmt: skip
    return RunResult(arm=arm, seed=seed, learning_rate=rate, **(defaults | fields))


def point(update: int, seconds: float, **metrics: float) -> Point:
    return Point(update=update, images=10 * update, seconds=seconds, metrics=metrics)
