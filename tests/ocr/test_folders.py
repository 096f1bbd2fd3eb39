"""Users without a home, or with one that cannot be written to."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import PYTHONPATH, ROOT
from varl.services.ocr.engines import folders, model_cache

NOT_WRITABLE = "/proc/1/home"  # for root as well
BUILD = """
import os
from varl.services.ocr.engines.onnx import build_onnx
from varl.services.ocr.engines.pipeline import EngineUnavailableError
try:
    print(build_onnx().model.engine)
except EngineUnavailableError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("given", "answer"),
    [
        ({"HOME": NOT_WRITABLE}, "paddleocr-onnxruntime"),
        ({"HOME": NOT_WRITABLE, "PADDLE_PDX_CACHE_HOME": NOT_WRITABLE}, "name one by PADDLE_PDX_CACHE_HOME"),
    ],
)
def test_the_engine_is_built_or_says_what_it_lacks(given: dict[str, str], answer: str, tmp_path: Path) -> None:
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": PYTHONPATH, "TMPDIR": str(tmp_path)} | given
    done = subprocess.run(
        [sys.executable, "-c", BUILD], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0 and answer in done.stdout, done.stderr[-2000:]
    assert [*tmp_path.glob("varl-ocr-*")] == [], "temporary folders go with the process"


def test_a_home_that_nobody_knows_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("os.getuid", lambda: 4_000_000)  # no entry in the user database
    assert folders.home() is None
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert model_cache.default_cache() == folders.scratch() / "models"


def test_models_that_lie_in_a_read_only_cache_are_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", NOT_WRITABLE)
    assert folders.scratch() in model_cache.default_cache().parents
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "varl" / "ocr" / f"abc-{model_cache._LAYOUT}").mkdir(parents=True)
    monkeypatch.setattr(model_cache, "writable", lambda folder: False)
    assert model_cache.default_cache() == tmp_path / "varl" / "ocr"
