"""Published prompt sets, where checkouts of theirs are given by path: spans right, none from outside of quotes.

VARL_FLOW_GRPO: flow_grpo; VARL_LEX_ART: LeX-Art; VARL_X_OMNI: X-Omni (its text bench, English and Chinese).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from pathlib import Path

import pytest

from varl.services.ocr.quotes import quoted_spans


def checkout(name: str) -> Path:
    folder = os.environ.get(name)
    if not folder:
        pytest.skip(f"{name} names no checkout")
    return Path(folder)


def text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def hold(pairs: Iterable[tuple[str, list[str]]], at_least: int) -> None:
    """Prompts with the spans that they have: 99.5 % of the spans are found, and nothing outside of marks is."""
    found = total = 0
    for prompt, wanted in pairs:
        spans = [_plain(span) for span in quoted_spans(prompt)]
        total += len(wanted)
        found += sum(_plain(span) in spans for span in wanted)
        marked = {_plain(inner) for inner in re.findall(r"(?=[\"“](.*?)[\"”])", prompt)}
        assert set(spans) <= marked, prompt
    assert total >= at_least
    assert found / total >= 0.995


def _plain(span: str) -> str:
    return re.sub(r"[\W_]+", "", span.lower())


def test_flow_grpo() -> None:
    prompts = text(checkout("VARL_FLOW_GRPO") / "dataset" / "ocr" / "test.txt").strip().split("\n")
    hold(((prompt, re.findall('"([^"]+)"', prompt)) for prompt in prompts), 1018)


def test_lex_bench() -> None:
    folder = checkout("VARL_LEX_ART") / "evaluation" / "test_file_examples"
    hold(((one["caption"], one["text"]) for path in folder.glob("*.json") for one in json.loads(text(path))), 1000)


@pytest.mark.parametrize("name", ["text_prompts", "text_prompts_zh"])
def test_text_bench_of_x_omni(name: str) -> None:
    lines = text(checkout("VARL_X_OMNI") / "textbench" / f"{name}.jsonl").strip().split("\n")
    hold(((one["prompt"], one["text"]) for one in map(json.loads, lines)), 700)
