"""Fixtures on a real Redis server: private to the test session, a fresh run id for each test."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest
import redis

from varl.launch.private_redis import private_redis
from varl.trajectories.queue import connect


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with private_redis(tmp_path_factory.mktemp("redis")) as url:
        yield url


@pytest.fixture
def redis_client(redis_server: str) -> Iterator[redis.Redis]:
    client = connect(redis_server)
    yield client
    client.close()


@pytest.fixture
def run_id() -> str:
    return f"test-{uuid.uuid4().hex[:12]}"
