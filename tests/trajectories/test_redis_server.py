"""The Redis server of a run: a private one, and the address from the environment."""

from __future__ import annotations

from pathlib import Path

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from varl.launch import private_redis as server
from varl.launch.private_redis import private_redis, redis_url_from_environment
from varl.trajectories.queue import connect


def test_private_server_ends_with_its_user(tmp_path: Path) -> None:
    with private_redis(tmp_path) as url:
        client = connect(url)
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
    with pytest.raises(RedisConnectionError):
        client.ping()


def test_server_that_cannot_start_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "LOG_NAME", "no/such/directory/redis.log")
    with pytest.raises(RuntimeError, match="did not come up"), private_redis(tmp_path):
        pass


def test_redis_url_from_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://somewhere:6379")
    assert redis_url_from_environment() == "redis://somewhere:6379"
    monkeypatch.setenv("REDIS_URL", "")
    assert redis_url_from_environment() is None
