"""A published benchmark and images for it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image

from tests.support.ocr_builders import render
from tests.support.published_benchmarks import publish
from tests.support.tiny_clip import make_clip
from varl.evaluation.benchmarks.items import cvtg_2k


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return publish(tmp_path / "CVTG-2K")


@pytest.fixture
def images(data: Path, tmp_path: Path) -> Path:
    """An image for each prompt that shows its first capital word alone."""
    for item in cvtg_2k(data):
        path = tmp_path / "images" / item.image
        path.parent.mkdir(parents=True, exist_ok=True)
        word = re.findall("[A-Z]{3,}", item.prompt)[0]
        Image.fromarray(render([word], (160, 80), 30)).save(path)
    return tmp_path / "images"


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("models") / "clip")
