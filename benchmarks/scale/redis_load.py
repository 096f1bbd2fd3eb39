"""What Redis, a worker and the trainer spend on one group of real size, and what an idle worker's polling costs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, cast

import redis

from benchmarks.scale.measured import line
from benchmarks.scale.traffic import job_of_kind, trajectory_bytes, trajectory_of
from benchmarks.shared import Row
from varl.trajectories.queue import RunQueue, connect

BATCH = 16  # groups that are out at a time: one update's
POLLS = 2000
WAITING = (64, 512)  # jobs in other workers' hands while an idle one polls; each poll looks through them
KEPT = 64  # groups held unacknowledged while Redis's memory is read


def measure(url: str, groups: int) -> list[Row]:
    """Send groups of both stages through a queue, one after another, from one process."""
    client = connect(url)
    rows = [row for kind in ("prefix", "suffix") for row in (*_exchange(client, kind, groups), *_memory(client, kind))]
    return [*rows, *(row for jobs in WAITING for row in _polls(client, jobs))]


def _exchange(client: redis.Redis, kind: str, groups: int) -> Iterator[Row]:
    trainer, worker = _queues(client, f"load-{kind}")
    template = trajectory_of(job_of_kind(kind))
    work, training, before, start = 0.0, 0.0, redis_cpu(client), time.perf_counter()
    for first in range(0, groups, BATCH):
        trainer.submit([job_of_kind(kind, first + index, f"load-{kind}") for index in range(BATCH)])
        clock = time.process_time()
        for _ in range(BATCH):
            delivery = _take(worker)
            template.group.job.CopyFrom(delivery.message)
            worker.publish(delivery, template)
        work, clock = work + time.process_time() - clock, time.process_time()
        received = trainer.receive(BATCH, 1000)
        trainer.acknowledge([got.entry_id for got in received])
        training += time.process_time() - clock
        if len(received) != BATCH:
            raise RuntimeError(f"{len(received)} of {BATCH} groups came back")
    done, wall = -(-groups // BATCH) * BATCH, time.perf_counter() - start
    yield line("redis", kind, 1e6 * (redis_cpu(client) - before) / done, "redis CPU us a group")
    yield line("redis", kind, 1e6 * work / done, "worker CPU us a group")
    yield line("redis", kind, 1e6 * training / done, "trainer CPU us a group")
    yield line("redis", kind, done / wall, "groups/s, one process doing all")
    yield line("redis", kind, done * trajectory_bytes(kind) / wall / 1e6, "MB/s, one process doing all")


def _memory(client: redis.Redis, kind: str) -> Iterator[Row]:
    """Memory of a group that is kept until a checkpoint holds its update."""
    trainer, worker = _queues(client, f"kept-{kind}")
    trainer.submit([job_of_kind(kind, index, f"kept-{kind}") for index in range(KEPT)])
    template = trajectory_of(job_of_kind(kind))
    before = _info(client, "memory")["used_memory_dataset"]
    for _ in range(KEPT):
        delivery = _take(worker)
        template.group.job.CopyFrom(delivery.message)
        worker.publish(delivery, template)
    yield line(
        "redis", kind, (_info(client, "memory")["used_memory_dataset"] - before) / KEPT, "bytes of memory a group kept"
    )
    trainer.purge(0)


def _polls(client: redis.Redis, jobs: int) -> Iterator[Row]:
    trainer, worker = _queues(client, f"idle-{jobs}")
    trainer.submit([job_of_kind("prefix", index, f"idle-{jobs}") for index in range(jobs)])
    for _ in range(jobs):
        _take(worker)
    before = redis_cpu(client)
    for _ in range(POLLS):
        worker.take_job(1, 60_000)
    yield line(
        "redis", f"idle poll, {jobs} jobs in hand", 1e6 * (redis_cpu(client) - before) / POLLS, "redis CPU us a poll"
    )
    trainer.purge(0)


def _queues(client: redis.Redis, run_id: str) -> tuple[RunQueue, RunQueue]:
    return RunQueue(client, run_id, "trainer"), RunQueue(client, run_id, "worker")


def _take(worker: RunQueue) -> Any:  # noqa: ANN401
    delivery = worker.take_job(1000, 60_000)
    if delivery is None:
        raise RuntimeError("a job that was submitted is not there")
    return delivery


def version(url: str) -> str:
    """The version of the server at ``url``."""
    return str(cast(dict[str, str], connect(url).info("server"))["redis_version"])


def redis_cpu(client: redis.Redis) -> float:
    """Processor seconds of the server so far, its children (rewriting the append-only file) included."""
    return sum(value for name, value in _info(client, "cpu").items() if name in CPU_FIELDS)


CPU_FIELDS = ("used_cpu_user", "used_cpu_sys", "used_cpu_user_children", "used_cpu_sys_children")


def _info(client: redis.Redis, section: str) -> dict[str, float]:
    return cast(dict[str, float], client.info(section))
