from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.hpsv3_builders import HPSv3Process, build_checkpoint, build_engine, running
from varl.services.hpsv3.native import NativeEngine


@pytest.fixture(scope="session")
def hpsv3_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny random checkpoint."""
    return build_checkpoint(tmp_path_factory.mktemp("hpsv3") / "tiny")


@pytest.fixture(scope="session")
def hpsv3_engine(hpsv3_checkpoint: Path) -> NativeEngine:
    """The native engine on the tiny checkpoint."""
    return build_engine(hpsv3_checkpoint)


@pytest.fixture(scope="session")
def hpsv3_service(hpsv3_checkpoint: Path) -> Iterator[HPSv3Process]:
    """The real HPSv3 service on the tiny checkpoint."""
    with running(hpsv3_checkpoint) as service:
        yield service
