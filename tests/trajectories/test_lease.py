"""One trainer of a run at a time, by its lease in Redis and the lock of its folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from tests.support.trainer_rig import make_recipe
from tests.support.trajectory_builders import make_job
from varl.launch.folder_lock import FolderHeldError, folder_lock
from varl.trainer.setup import open_queue
from varl.trajectories.lease import Lease, RunHeldError, decode_holder, held
from varl.trajectories.queue import RunQueue

SHORT_S = 1.5


def lease(client: redis.Redis, run_id: str, folder: str = "", directory: str = "runs/here") -> Lease:
    return Lease(client, client, run_id, directory, folder, SHORT_S)


@contextmanager
def another_process_with(lock: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process of its own that holds a lock."""
    code = (
        f"import fcntl, os, sys\nfcntl.flock(os.open({str(lock)!r}, os.O_RDWR | os.O_CREAT), fcntl.LOCK_EX)\nprint()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code + "sys.stdout.flush(); sys.stdin.read()"], stdin=-1, stdout=-1
    )
    assert process.stdout is not None and process.stdout.readline()
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_the_second_is_told_who_holds_the_run(redis_client: redis.Redis, run_id: str) -> None:
    with held(lease(redis_client, run_id)), pytest.raises(RunHeldError) as refused:
        lease(redis_client, run_id, directory="runs/there").take()
    assert f"run {run_id!r} is held by the trainer in runs/here (process {os.getpid()} on " in str(refused.value)
    lease(redis_client, run_id).take()  # it was given back


def test_the_lease_of_a_trainer_that_died_elsewhere_ends_by_itself(redis_client: redis.Redis, run_id: str) -> None:
    lease(redis_client, run_id).take()  # nobody renews it
    lease(redis_client, run_id).take()


def test_who_has_the_lock_of_the_folder_waits_for_no_dead_trainer(
    redis_client: redis.Redis, run_id: str, tmp_path: Path
) -> None:
    with folder_lock(tmp_path / "lock") as folder:
        lease(redis_client, run_id, folder).take()
    redis_client.persist(f"varl:{run_id}:trainer")  # what the first one left would never end
    with folder_lock(tmp_path / "lock") as again, held(lease(redis_client, run_id, again)):
        assert again == folder != ""
    redis_client.set(f"varl:{run_id}:trainer", "not ours")
    with folder_lock(tmp_path / "lock") as again, pytest.raises(RunHeldError, match="not ours"):
        lease(redis_client, run_id, again).take()


def test_a_trainer_whose_run_was_taken_touches_its_queue_no_more(redis_client: redis.Redis, run_id: str) -> None:
    first, second = lease(redis_client, run_id), lease(redis_client, run_id, directory="runs/there")
    first.take()
    queue = RunQueue(redis_client, run_id, "trainer", check_lease=first.check)
    queue.submit([make_job(run_id)])
    second.take()  # the first has been stopped for longer than its lease
    for command in (
        lambda: queue.submit([make_job(run_id)]),
        lambda: queue.receive(1, 0),
        lambda: queue.purge(0),
        lambda: queue.acknowledge(["1-1"]),
        queue.recover,
        lambda: queue.bury(make_job(run_id), "no reason"),
    ):
        with pytest.raises(RunHeldError, match="runs/there"):
            command()
    assert queue.backlog() == 1
    first.release()
    assert decode_holder((redis_client.get(f"varl:{run_id}:trainer") or b"").decode()) is not None  # type: ignore[union-attr]


def test_a_lease_that_redis_lost_is_begun_again(redis_client: redis.Redis, run_id: str) -> None:
    with held(lease(redis_client, run_id)) as mine:
        redis_client.delete(mine.key)
        while not redis_client.exists(mine.key):
            time.sleep(0.05)
        mine.check()


def test_a_lock_is_one_processs_and_ends_with_it(tmp_path: Path) -> None:
    lock = tmp_path / "run" / "lock"
    with (
        folder_lock(lock),
        pytest.raises(FolderHeldError, match=r"run is in use by process \d+ on .* since 20"),
        folder_lock(lock),
    ):
        pass
    with another_process_with(lock) as process:
        with pytest.raises(FolderHeldError), folder_lock(lock):
            pass
        process.send_signal(signal.SIGKILL)
        process.wait()
        with folder_lock(lock) as identity:
            assert identity


def test_a_second_trainer_is_refused_by_folder_or_by_name(redis_server: str, run_id: str, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    here, there = make_recipe(tmp_path, run_id), make_recipe(tmp_path / "elsewhere", run_id)
    with open_queue(here, redis_server) as queue:
        queue.submit([make_job(run_id)])
        with pytest.raises(FolderHeldError, match=f"{run_id} is in use by process"), open_queue(here, redis_server):
            pass
        with pytest.raises(RunHeldError, match=str(tmp_path / "runs" / run_id)), open_queue(there, redis_server):
            pass
        assert queue.backlog() == 1
    with open_queue(there, redis_server) as queue:
        assert queue.purge(0) == 1
