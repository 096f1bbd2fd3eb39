"""The marker ``process`` is on tests that start processes, by whichever way, and on no others."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import pytest

from tests.support.gateway_rig import Toy
from tests.support.marking import starts
from tests.support.ocr_builders import render, running
from varl.launch.private_redis import private_redis
from varl.launch.supervisor import Supervisor


@cache
def _version() -> bytes:
    return subprocess.run(["true"], capture_output=True, check=True).stdout


@contextmanager
def _inside() -> Iterator[bytes]:
    yield _version()


def _harmless() -> bool:
    return bool(render(["A"]).any()) and Toy is not None


@pytest.mark.parametrize("thing", [_version, _inside, running, private_redis, Supervisor])
def test_what_starts_a_process_is_seen(thing: object) -> None:
    assert starts(thing)


@pytest.mark.parametrize("thing", [_harmless, render, len, Toy])
def test_what_starts_none_is_not(thing: object) -> None:
    assert not starts(thing)


def test_tests_are_marked_by_their_fixtures(request: pytest.FixtureRequest, redis_server: str) -> None:
    assert request.node.get_closest_marker("process")


def test_this_one_is_not(request: pytest.FixtureRequest) -> None:
    assert not request.node.get_closest_marker("process")
