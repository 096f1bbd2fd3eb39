"""A Redis full of a run's trajectories still accepts the commands that free its memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis
from redis.exceptions import OutOfMemoryError

from tests.support.trainer_rig import make_recipe
from tests.support.trajectory_builders import make_group, make_job
from varl.launch.private_redis import private_redis
from varl.trainer.setup import open_queue
from varl.trajectories.lease import Lease
from varl.trajectories.queue import RunQueue, connect
from varl.v1 import rollout_pb2, trajectory_pb2

GRIDS, GROUPS = ((8, 8),) * 40, 30  # some 5 MB
LEASE_S = 0.5


@dataclass(frozen=True)
class Full:
    """A full server, a client without patience, and the trainer that filled it."""

    url: str
    client: redis.Redis
    trainer: RunQueue
    lease: Lease


@pytest.fixture
def full(tmp_path: Path, run_id: str) -> Iterator[Full]:
    with private_redis(tmp_path / "redis") as url, connect(url) as client:
        lease = Lease(client, client, run_id, "runs/here", "", LEASE_S)
        lease.take()
        trainer, worker = (RunQueue(client, run_id, name) for name in ("trainer", "worker"))
        for update in range(GROUPS):
            job = make_job(run_id, job_id=f"train/{update}/0", group_size=16)
            assert_received(trainer, worker, job)
        client.config_set("maxmemory", int(0.75 * client.info("memory")["used_memory"]))
        with pytest.raises(OutOfMemoryError):
            client.set("more", "x")
        yield Full(url, client, trainer, lease)


def assert_received(trainer: RunQueue, worker: RunQueue, job: rollout_pb2.RolloutJob) -> None:
    """Have one group drawn and received; nothing acknowledges it."""
    trainer.submit([job])
    taken = worker.take_job(0, 60_000)
    assert taken is not None and worker.publish(taken, trajectory_pb2.Trajectory(group=make_group(job, GRIDS)))
    assert len(trainer.receive(1, 0)) == 1


def test_a_checkpoint_makes_room(full: Full, run_id: str) -> None:
    received = RunQueue(full.client, run_id, "looking").recover()
    full.trainer.acknowledge([delivery.entry_id for delivery in received])
    full.trainer.submit([make_job(run_id)])
    assert full.trainer.backlog() == 1


def test_what_holds_a_full_redis_goes_on_holding_it(full: Full) -> None:
    full.lease.renew()
    full.lease.check()
    assert full.client.pttl(full.lease.key) > 0
    assert full.trainer.backlog() == 0 and full.trainer.receive(1, 0) == []


def test_the_next_trainer_empties_a_full_redis(full: Full, run_id: str, tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path, run_id, rollout={"group_timeout_s": LEASE_S})
    with open_queue(recipe, full.url) as queue:
        assert queue.purge(0) == GROUPS
        queue.submit([make_job(run_id)])
    assert full.client.exists(full.lease.key) == 0
