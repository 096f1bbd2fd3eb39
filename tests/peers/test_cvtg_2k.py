"""CVTG-2K's own script and prompts, out of a checkout that holds them, against ``varl benchmark cvtg-2k``.

``make peers PEERS=FOLDER`` with a clone of zlab-princeton/i1 in it, which keeps the script as it was published. Both
read with the same OCR engine: the script's PaddleOCR 2 cannot be installed beside PaddleOCR 3.
"""

from __future__ import annotations

import json
import os
import random
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rapidfuzz.distance import Levenshtein

from tests.support.ocr_builders import render
from tests.support.peer_code import checkout, peer_module
from varl.evaluation.benchmarks.figures import area_results, results
from varl.evaluation.benchmarks.items import Item, cvtg_2k
from varl.evaluation.benchmarks.judge import Judge, pictures_of
from varl.evaluation.benchmarks.scorers import Named
from varl.services.ocr.engines.base import EngineFailure, OcrEngine
from varl.services.ocr.engines.looks import CVTG_2K
from varl.services.ocr.engines.onnx import build_onnx
from varl.services.ocr.folding import same_form
from varl.services.ocr.targets import words_in_quotes

pytestmark = pytest.mark.skipif("VARL_PEERS" not in os.environ, reason="make peers PEERS=FOLDER")
EVERY = 10  # of the 2,000 prompts


@pytest.fixture(scope="module")
def folder() -> Path:
    return checkout("i1") / "benchmark_eval" / "cvtg-2k"


@pytest.fixture(scope="module")
def engine() -> OcrEngine:
    return build_onnx(looks=CVTG_2K)


@pytest.fixture(scope="module")
def items(folder: Path) -> list[Item]:
    return cvtg_2k(folder / "prompts")


@pytest.fixture(scope="module")
def images(items: list[Item], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every tenth prompt's target words, some left out, some misspelt."""
    rng, images = random.Random(0), tmp_path_factory.mktemp("images")
    for item in items[::EVERY]:
        path = images / item.image
        path.parent.mkdir(parents=True, exist_ok=True)
        shown = [word[:-1] + rng.choice("xyz") if rng.random() < 0.3 else word for word in item.targets]
        kept = [word for word in shown if rng.random() < 0.9][:6] or ["nothing"]
        Image.fromarray(render([word.upper() for word in kept], (320, 320), 28)).save(path)
    return images


@pytest.fixture
def script(folder: Path, engine: OcrEngine, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The script's module, its PaddleOCR standing for this project's engine."""

    class PaddleOCR:
        def __init__(self, **_: object) -> None:
            """Its settings are those of the engine's looks."""

        def ocr(self, path: str, cls: bool) -> list[list[tuple[None, tuple[str, float]]]]:
            assert cls
            (reading,) = engine.read([np.asarray(Image.open(path).convert("RGB"))])
            assert not isinstance(reading, EngineFailure)
            return [[(None, (word.text, word.confidence)) for word in reading]]

    monkeypatch.setitem(sys.modules, "paddleocr", SimpleNamespace(PaddleOCR=PaddleOCR))
    monkeypatch.setitem(sys.modules, "Levenshtein", Levenshtein)
    for absent in ("clip", "open_clip", "t2v_metrics"):
        monkeypatch.setitem(sys.modules, absent, None)  # an ImportError
    with peer_module("cvtg.script", {"cvtg.script": folder / "unified_metrics_eval.py"}) as module:
        yield module


def theirs(script: ModuleType, folder: Path, images: Path, out: Path) -> dict[str, Any]:
    script.UnifiedMetricsEvaluator("cpu").evaluate_full_dataset(str(folder / "prompts"), str(images), str(out))
    return dict(json.loads(out.read_text()))


def test_all_prompts_have_the_scripts_targets(script: ModuleType, items: list[Item]) -> None:
    assert len(items) == 2000
    words = script.UnifiedMetricsEvaluator.extract_words_from_prompt
    assert [list(item.targets) for item in items] == [words(None, item.prompt) for item in items]


def test_the_default_rule_finds_the_same_words(items: list[Item]) -> None:
    found = [words_in_quotes(item.prompt) for item in items]
    assert [_bare(words) for words in found] == [_bare(item.targets) for item in items]


def _bare(words: Sequence[str]) -> list[str]:
    return [same_form(word).strip(".,") for word in words]


def test_word_accuracy_and_ned_are_the_scripts(
    script: ModuleType, folder: Path, items: list[Item], images: Path, engine: OcrEngine, tmp_path: Path
) -> None:
    drawn = pictures_of(items[::EVERY], [images])
    verdicts = Judge(engine, [], 0.5).judge(drawn, tmp_path / "log.jsonl", lambda _: None)
    ours, areas = results(drawn, verdicts, "region_results")["overall_results"], area_results(drawn, verdicts)
    record = theirs(script, folder, images, tmp_path / "theirs.json")
    assert 0.3 < ours["word_accuracy"] < 0.9
    for one, other in [(ours, record["overall_results"]), *zip(areas, record["area_results"], strict=True)]:
        names = ("word_accuracy", "ned", "total_images", "total_words", "correct_words")
        assert [one[name] for name in names] == pytest.approx([other[name] for name in names], abs=1e-9)
    keys = [(one["benchmark_type"], one["area"]) for one in record["area_results"]]
    assert [(one["benchmark_type"], one["area"]) for one in areas] == keys


def test_clip_score_is_the_scripts(
    script: ModuleType, folder: Path, items: list[Item], images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With OpenAI's package, random weights in its format and the same ones in that of transformers."""
    monkeypatch.delitem(sys.modules, "clip")
    clip = pytest.importorskip("clip", reason="OpenAI's clip is not installed")
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    from tests.support.openai_clip import as_transformers, small_clip
    from varl.evaluation.benchmarks.clip_score import ClipScorer

    model = small_clip(clip)
    transform = clip.clip._transform(model.visual.input_resolution)
    monkeypatch.setattr(clip, "load", lambda *_, **__: (model, transform))
    drawn = pictures_of(items[::EVERY], [images])
    scorer = Named("clipscore", ClipScorer(str(as_transformers(clip, model, tmp_path / "clip"))))
    verdicts = Judge(None, [scorer], 0.5).judge(drawn, tmp_path / "log.jsonl", lambda _: None)
    record = theirs(script, folder, images, tmp_path / "theirs.json")
    ours = results(drawn, verdicts, "region_results")["overall_results"]
    assert ours["clipscore"] == pytest.approx(record["overall_results"]["clipscore"], abs=1e-6)
    assert ours["clipscore"] > 0.01
