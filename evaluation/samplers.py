"""Samplers by the words that name them: "greedy", or "T=0.7,k=50,p=0.9,g=2" in parts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from varl.policy.base import SamplingParams

GREEDY = "greedy"
_FIELDS = {"T": "temperature", "k": "top_k", "p": "top_p", "g": "cfg"}


@dataclass(frozen=True)
class Sampler:
    """How an evaluation samples, and the words by which its user named it."""

    name: str
    params: SamplingParams


def parse_sampler(text: str, default: SamplingParams) -> Sampler:
    """``default`` with what ``text`` changes: "greedy", or some of T (temperature), k (top-k), p (top-p), g (guidance).

    Raises:
        ValueError: it is neither, or a value is out of range.
    """
    if text == GREEDY:
        return Sampler(text, replace(default, top_k=1))
    values = dict[str, Any]()
    for part in text.split(","):
        key, separator, value = part.partition("=")
        if not separator or key not in _FIELDS:
            raise ValueError(f"{text!r}: want {GREEDY}, or T=, k=, p=, g= with a number each, separated by commas")
        values[_FIELDS[key]] = int(value) if key == "k" else float(value)
    return Sampler(text, replace(default, **values))


def name_of(params: SamplingParams) -> str:
    """The words that name a sampler: its temperature, and what else is on."""
    rest = [("k", params.top_k), ("p", params.top_p if params.top_p < 1 else 0), ("g", params.cfg)]
    return ",".join([f"T={params.temperature:g}", *(f"{key}={value:g}" for key, value in rest if value)])
