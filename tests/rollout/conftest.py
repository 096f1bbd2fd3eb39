"""A small random model in a folder, for workers that load it."""

from __future__ import annotations

from pathlib import Path

import pytest

from varl.policy.nextflow import NextFlowPolicy, build_random, load


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    build_random().save(folder)
    return folder


@pytest.fixture(scope="module")
def policy(model_dir: Path) -> NextFlowPolicy:
    return load(model_dir)
