"""The native engine against the hpsv3 package itself, which runs in an environment of its own (``make oracle``)."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from tokenizers import Tokenizer

from tests.support.hpsv3_builders import build_engine, build_tokenizer, running
from tests.support.ocr_builders import ENVIRONMENT, json_sample
from tests.support.paths import ROOT
from varl.services.hpsv3.files import TOKENIZER, WEIGHTS, Files
from varl.services.hpsv3.model import RewardModel, load_checkpoint, save_checkpoint
from varl.services.hpsv3.native import NativeEngine, read_config
from varl.services.hpsv3.prompt import Prompts, read_wording

PYTHON = ROOT / ".venv-hpsv3" / "bin" / "python"
TOLERANCE = 1e-5  # the same float32 sums in another order, on scores of about one
pytestmark = pytest.mark.skipif(
    not (ROOT / ".venv-hpsv3" / ".done").is_file(), reason="no environment of the hpsv3 package: make oracle"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that the package built, pictures and the package's scores of them."""
    path = tmp_path_factory.mktemp("oracle")
    build_tokenizer().save(str(path / TOKENIZER))
    command = [str(PYTHON), "tests/support/oracle/hpsv3_package.py", str(path)]
    made = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=280)
    assert made.returncode == 0, made.stderr
    return path


@pytest.fixture(scope="module")
def batches(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((folder / "scores.json").read_text())
    return found


def score(engine: NativeEngine, folder: Path, images: Sequence[str], prompts: Sequence[str]) -> list[list[float]]:
    pictures = [np.asarray(Image.open(folder / image)) for image in images]
    items = [engine.prepare(picture, prompt) for picture, prompt in zip(pictures, prompts, strict=True)]
    return [[found.mu, found.log_sigma] for found in engine.score(items)]


def test_native_scores_are_those_of_the_package(folder: Path, batches: list[dict[str, Any]]) -> None:
    engine = build_engine(folder)
    for batch in batches:
        found = score(engine, folder, batch["images"], batch["prompts"])
        np.testing.assert_allclose(found, batch["scores"], rtol=0, atol=TOLERANCE)
    everything = max(batches, key=lambda batch: len(batch["images"]))
    assert np.ptp([mu for mu, _ in everything["scores"]]) > 0.1  # the tolerance means something


def test_native_scores_are_those_of_the_package_in_any_company(folder: Path, batches: list[dict[str, Any]]) -> None:
    engine = build_engine(folder)
    everything = max(batches, key=lambda batch: len(batch["images"]))
    images, prompts, expected = everything["images"], everything["prompts"], everything["scores"]
    for part in (slice(0, 1), slice(1, 4), slice(3, 8), slice(None, None, -1)):
        np.testing.assert_allclose(
            score(engine, folder, images[part], prompts[part]), expected[part], rtol=0, atol=TOLERANCE
        )


def test_the_package_takes_a_checkpoint_that_varl_wrote_and_serves_it(
    folder: Path, batches: list[dict[str, Any]], tmp_path: Path
) -> None:
    prompts = Prompts(Tokenizer.from_file(str(folder / TOKENIZER)), read_wording())
    model = RewardModel(read_config(Files(folder / WEIGHTS, folder, "", ""), prompts))
    load_checkpoint(model, folder / WEIGHTS)
    save_checkpoint(model, tmp_path / WEIGHTS)
    batch = batches[5]  # two pictures, and no blank prompt, which the service refuses
    samples = [
        json_sample(image, prompt, (folder / image).read_bytes())
        for image, prompt in zip(batch["images"], batch["prompts"], strict=True)
    ]
    refused = json_sample("control", "a <|Reward|>", (folder / "0.png").read_bytes())
    with running(tmp_path, "--engine", "package", "--base", str(folder), python=str(PYTHON)) as service:
        answer = httpx.post(f"{service.http}/v1/score", json={"samples": [*samples, refused]}, timeout=120).json()
    *scored, control = answer["results"]
    found = [[result["components"]["mu"], result["components"]["log_sigma"]] for result in scored]
    np.testing.assert_allclose(found, batch["scores"], rtol=0, atol=TOLERANCE)
    assert answer["model"]["engine"] == "hpsv3-package-float32"
    assert control["error"]["code"] == "invalid_field"
