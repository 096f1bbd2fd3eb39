import os

import pytest
from hypothesis import settings

import varl  # noqa: F401

pytest_plugins = [
    "tests.support.fixtures_browser",
    "tests.support.fixtures_hpsv3",
    "tests.support.fixtures_ocr",
    "tests.support.fixtures_redis",
    "tests.support.fixtures_s3",
]

settings.register_profile("varl", deadline=None)  # how long an example takes says nothing on a busy machine
settings.load_profile("varl")

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # several of these share the cores; before PyTorch is loaded


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    from tests.support.marking import longest_first, mark_processes

    mark_processes(items)
    longest_first(items)
