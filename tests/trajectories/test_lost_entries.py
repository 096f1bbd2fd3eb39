"""What a trainer still finds, and what it reads for that, where Redis or a connection has lost entries."""

from __future__ import annotations

import time
from typing import Any, cast

import pytest
import redis

from tests.support.trajectory_builders import make_group, make_job
from varl.trajectories.codec import encode_trajectory, job_of
from varl.trajectories.queue import RunQueue
from varl.v1 import rollout_pb2, trajectory_pb2

LARGE = ((32, 32),) * 4  # some 50 kB of two candidates
SOON_S = 10.0


@pytest.fixture
def trainer(redis_client: redis.Redis, run_id: str) -> RunQueue:
    return RunQueue(redis_client, run_id, "trainer")


def jobs_of(run_id: str, update: int, count: int) -> list[rollout_pb2.RolloutJob]:
    return [make_job(run_id, job_id=f"train/{update}/{index}", update=update) for index in range(count)]


def answer(client: redis.Redis, jobs: list[rollout_pb2.RolloutJob]) -> int:
    """Put the groups of jobs on their stream; returns the bytes of one."""
    texts = [encode_trajectory(trajectory_pb2.Trajectory(group=make_group(job, LARGE))) for job in jobs]
    for job, text in zip(jobs, texts, strict=True):
        client.xadd(f"varl:{job.run_id}:trajectories", {b"m": text})
    return len(texts[0])


def delivered_in_vain(client: redis.Redis, run_id: str) -> None:
    """What a broken connection leaves: an entry is delivered, and nobody has seen the reply."""
    assert client.xreadgroup("trainer", "trainer", {f"varl:{run_id}:trajectories": ">"}, count=1)


def test_what_redis_has_lost_hides_nothing_that_it_has(
    trainer: RunQueue, redis_client: redis.Redis, run_id: str
) -> None:
    answer(redis_client, jobs_of(run_id, 0, 3))
    assert len(trainer.receive(10, 0)) == 3  # held until a checkpoint
    redis_client.delete(f"varl:{run_id}:trajectories")
    assert trainer.receive(10, 0) == []
    answer(redis_client, jobs_of(run_id, 1, 1))
    delivered_in_vain(redis_client, run_id)
    found, deadline = trainer.receive(10, 0), time.monotonic() + SOON_S
    while not found and time.monotonic() < deadline:
        found = trainer.receive(10, 100)
    assert [job_of(delivery.message).job_id for delivery in found] == ["train/1/0"]


def test_what_is_held_is_not_read_again_to_see_what_is_lost(
    trainer: RunQueue, redis_client: redis.Redis, run_id: str
) -> None:
    held, others = jobs_of(run_id, 0, 10), jobs_of(run_id, 1, 3)
    answer(redis_client, held)
    assert len(trainer.receive(10, 0)) == 10
    size = answer(redis_client, others[:2])
    delivered_in_vain(redis_client, run_id)  # one of them; the other was never delivered
    before = sent(redis_client)
    assert trainer.lost(held + others) == others[2:]
    assert 2 * size <= sent(redis_client) - before < 4 * size


def sent(client: redis.Redis) -> int:
    """Bytes that the server has sent so far, to anybody."""
    return int(cast(Any, client.info("stats"))["total_net_output_bytes"])
