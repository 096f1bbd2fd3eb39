"""Waits of trainer and worker that happen for real, and are said: a Redis that hangs, a slow disk, a slow child."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import pytest

from varl.launch import waits
from varl.launch.private_redis import private_redis
from varl.launch.supervisor import Supervisor
from varl.services.rollout.generation import Limits
from varl.services.rollout.worker import Parts, Worker, WorkerSettings
from varl.trainer.disk.retry import Storage
from varl.trajectories.access import RedisAccess
from varl.trajectories.queue import RunQueue, connect

HANGS_S = 1.0
END = r"until (20\d\d-\d\d-\d\d \d\d:\d\d:\d\d \S+|the process is told to stop)"


@pytest.fixture(autouse=True)
def sooner(monkeypatch: pytest.MonkeyPatch) -> None:
    """Announcements after a tenth of a second in place of ten seconds."""
    monkeypatch.setattr(waits, "FIRST_S", 0.1)
    monkeypatch.setattr(waits, "TICK_S", 0.05)


@contextmanager
def hanging(url: str) -> Iterator[None]:
    """A Redis that takes connections and answers nothing, for a second."""
    process = connect(url).info("server")["process_id"]
    os.kill(process, signal.SIGSTOP)
    timer = threading.Timer(HANGS_S, os.kill, (process, signal.SIGCONT))
    timer.start()
    try:
        yield
    finally:
        timer.join()


def test_a_trainer_says_that_redis_hangs(tmp_path: Path, caplog: pytest.LogCaptureFixture, run_id: str) -> None:
    with private_redis(tmp_path) as url:
        queue = RunQueue(RedisAccess(url).connect(patience_s=60.0), run_id, "trainer")
        with hanging(url):
            assert queue.backlog() == 0
    assert len(re.findall(rf"waiting for Redis for 0 s, {END}", caplog.text)) == 1


async def test_a_worker_says_that_redis_hangs(tmp_path: Path, caplog: pytest.LogCaptureFixture, run_id: str) -> None:
    settings = WorkerSettings("worker", 1, 60_000, Limits(1, 1, 100))
    with private_redis(tmp_path) as url:
        queue = RunQueue(connect(url), run_id, "worker")
        worker = Worker(cast(Parts, None), settings, asyncio.Event())  # its calls of Redis need nothing else
        with hanging(url):
            assert await worker._redis(queue.backlog) == 0
    assert len(re.findall(rf"waiting for Redis for 0 s, {END}", caplog.text)) == 1


def test_a_trainer_says_what_it_writes_for_long(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    Storage().keep_trying("checkpoint 3", lambda: time.sleep(0.5))
    assert re.search(rf"waiting for checkpoint 3 to be written for 0 s, {END}", caplog.text)


def test_the_end_of_a_slow_child_is_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    end = "signal.signal(15, lambda *_: (time.sleep(1), exit(0)))"
    code = f"import signal, time; {end}; print({{}}, flush=True); time.sleep(99)"
    with Supervisor(tmp_path) as parts:
        parts.start("slow", [sys.executable, "-c", code])
    assert re.search(rf"waiting for slow to end for 0 s, {END}", caplog.text)
