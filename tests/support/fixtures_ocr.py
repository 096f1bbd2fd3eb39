from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.ocr_builders import OCRProcess, running


@pytest.fixture(scope="session")
def ocr_model_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model cache that starts out absent."""
    return tmp_path_factory.mktemp("ocr") / "cache"


@pytest.fixture(scope="session")
def ocr_service(ocr_model_cache: Path) -> Iterator[OCRProcess]:
    """The real OCR reward service with its defaults, on free ports."""
    with running(ocr_model_cache) as service:
        yield service
