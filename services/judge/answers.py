"""Questions from a template and a sample, and numbers from what a model answers: pure functions."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from json import JSONDecoder
from string import Template
from typing import Any

from varl.reward import Sample


class NoQuestionError(ValueError):
    """The template asks for what the sample does not have."""


class NoScoreError(ValueError):
    """The answer has no score in it."""


def question(template: str, sample: Sample) -> str:
    """The template with ``$prompt``, ``$target_words``, and keys of the sample's metadata; ``$$`` is a dollar.

    Values that are not text stand there as JSON. Raises NoQuestionError for a name that the sample has no value for; a
    blank prompt is none.
    """
    words = ", ".join(f'"{word}"' for word in sample.target_words)
    values = {**sample.metadata, "prompt": sample.prompt, **({"target_words": words} if words else {})}
    if not sample.prompt.strip():
        del values["prompt"]
    try:
        return Template(template).substitute({name: _text(value) for name, value in values.items()})
    except KeyError as error:
        name = str(error.args[0])
        field = name if name in ("prompt", "target_words") else f"metadata.{name}"
        raise NoQuestionError(f"{field}: the question asks for it, and the sample has none") from error
    except ValueError as error:
        raise NoQuestionError(f"the template of the question: {error}") from error


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def score(answer: str, key: str, low: float, high: float) -> float:
    """The number under ``key`` in the last JSON object of an answer, moved from [low, high] to [0, 1].

    A model may think aloud before it, or put it into a code block. Raises NoScoreError where there is no such object,
    the value is no number, or it lies outside: a judge that leaves its scale has not understood the question.
    """
    value = next((found[key] for found in reversed(_objects(answer)) if key in found), None)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise NoScoreError(f"no JSON object with a number {key!r} in the answer {answer[-200:]!r}")
    if not low <= value <= high:
        raise NoScoreError(f"{key} is {value}, not within {low} and {high}")
    return (value - low) / (high - low)


def _objects(text: str) -> list[Mapping[str, Any]]:
    """The outermost JSON objects in a text, in order."""
    found, at, decoder = list[Mapping[str, Any]](), text.find("{"), JSONDecoder()
    while at >= 0:
        try:
            value, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            at += 1
        else:
            found.append(value)
        at = text.find("{", at)
    return found
