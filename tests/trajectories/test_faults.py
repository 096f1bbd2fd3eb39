"""Messages of other runs or versions, a Redis that forgets, jobs handed back, trajectories that come early."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, cast

import pytest
import redis

from tests.support.trajectory_builders import LAYOUT, make_group, make_job, make_trajectory
from varl.launch.private_redis import private_redis
from varl.trajectories import codec
from varl.trajectories.access import RedisAccess
from varl.trajectories.codec import decode_trajectory, encode_job, encode_trajectory
from varl.trajectories.collect import Patience, collect
from varl.trajectories.problems import CodecError
from varl.trajectories.queue import RunQueue
from varl.v1 import trajectory_pb2

LONG_MS = 60_000
GRIDS = ((1, 1), (2, 2), (3, 4))


@pytest.fixture
def trainer(redis_client: redis.Redis, run_id: str) -> RunQueue:
    return RunQueue(redis_client, run_id, "trainer")


@pytest.fixture
def worker(redis_client: redis.Redis, run_id: str) -> RunQueue:
    return RunQueue(redis_client, run_id, "worker-1")


def work_off(worker: RunQueue, count: int) -> None:
    for _ in range(count):
        delivery = worker.take_job(2_000, LONG_MS)
        assert delivery is not None and worker.publish(delivery, make_trajectory(delivery.message))


def reasons(client: redis.Redis, run_id: str) -> list[str]:
    return [fields[b"reason"].decode() for _, fields in cast(Any, client.xrange(f"varl:{run_id}:dead"))]


def test_messages_of_another_run_are_dead_letters(
    trainer: RunQueue, worker: RunQueue, redis_client: redis.Redis, run_id: str
) -> None:
    foreign = make_job("another-run")
    redis_client.xadd(f"varl:{run_id}:jobs", {"m": encode_job(foreign)})
    redis_client.xadd(f"varl:{run_id}:trajectories", {"m": encode_trajectory(make_trajectory(foreign))})
    assert worker.take_job(0, LONG_MS) is None
    assert trainer.receive(10, 0) == [] and trainer.undecodable.total() == 1
    assert [f"job: run_id must be '{run_id}', got 'another-run'"] * 2 == reasons(redis_client, run_id)


def test_messages_of_another_schema_are_dead_letters(
    trainer: RunQueue, worker: RunQueue, redis_client: redis.Redis, run_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("varl.trajectories.job_checks.SCHEMA", 999)  # as a later version of this code would write
        later = make_job(run_id, schema=999)
        redis_client.xadd(f"varl:{run_id}:jobs", {"m": encode_job(later)})
        redis_client.xadd(f"varl:{run_id}:trajectories", {"m": encode_trajectory(make_trajectory(later))})
    assert worker.take_job(0, LONG_MS) is None
    (told,) = trainer.receive(10, 0)
    assert told.message.failure.code == trajectory_pb2.FAILURE_CODE_DEAD_LETTER
    assert (
        all("schema must be 2, got 999" in reason for reason in reasons(redis_client, run_id))
        and trainer.undecodable.total() == 1
    )


def test_sizes_are_looked_at_before_anything_is_made_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    group = make_group(make_job())
    group.grids[0].height = group.grids[0].width = 2**16  # a mask of 4 GiB
    with pytest.raises(CodecError, match="cells"):
        decode_trajectory(make_message(group))
    group = make_group(make_job())
    group.image_height = group.image_width = 2**14
    with pytest.raises(CodecError, match="image_height"):
        decode_trajectory(make_message(group))
    monkeypatch.setattr(codec, "MAX_MESSAGE_BYTES", 10)
    with pytest.raises(CodecError, match="bytes are more than"):
        decode_trajectory(make_message(make_group(make_job())))


def make_message(group: Any) -> bytes:  # noqa: ANN401
    return bytes(trajectory_pb2.Trajectory(group=group).SerializeToString())


def test_an_optional_reward_is_on_all_images_or_on_none() -> None:
    job = make_job(optional_rewards=["beauty"])
    group = make_group(job)
    assert decode_trajectory(make_message(group)).group == group
    del group.candidates[1].continuations[0].rewards["beauty"]
    with pytest.raises(CodecError, match=r"candidates\[1\].*rewards must name"):
        decode_trajectory(make_message(group))
    del group.candidates[0].continuations[0].rewards["beauty"]
    group.absent_rewards.append("beauty")
    assert decode_trajectory(make_message(group)).group == group
    group.absent_rewards.append("ocr")  # a required one may not be absent
    with pytest.raises(CodecError, match="absent_rewards"):
        decode_trajectory(make_message(group))


def test_a_job_that_is_handed_back_goes_to_another_worker_at_once(
    trainer: RunQueue, worker: RunQueue, redis_client: redis.Redis, run_id: str
) -> None:
    trainer.submit([make_job(run_id)])
    taken = worker.take_job(0, LONG_MS)
    assert taken is not None
    other = RunQueue(redis_client, run_id, "worker-2")
    assert other.take_job(0, LONG_MS) is None
    worker.release(taken.entry_id, LONG_MS)
    assert worker.take_job(0, LONG_MS, skip={taken.entry_id}) is None
    again = other.take_job(0, LONG_MS)
    assert again is not None and (again.entry_id, again.deliveries) == (taken.entry_id, 2)


def test_jobs_that_redis_has_lost_are_found(
    trainer: RunQueue, worker: RunQueue, redis_client: redis.Redis, run_id: str
) -> None:
    jobs = [make_job(run_id, job_id=f"train/1/{index}") for index in range(4)]
    trainer.submit(jobs[:3])
    work_off(worker, 1)
    assert worker.take_job(0, LONG_MS) is not None  # one answered, one in hand, one queued, one never arrived
    assert trainer.lost(jobs) == [jobs[3]]


def test_a_redis_that_comes_back_empty_is_worked_with_again(redis_client: redis.Redis, run_id: str) -> None:
    trainer, worker = RunQueue(redis_client, run_id, "trainer"), RunQueue(redis_client, run_id, "worker")
    redis_client.delete(f"varl:{run_id}:jobs", f"varl:{run_id}:trajectories")
    trainer.submit([make_job(run_id)])
    taken = [worker.take_job(0, LONG_MS) for _ in range(2)]
    assert any(delivery is not None and delivery.message.job_id == "train/1/0" for delivery in taken)


def test_the_trainer_waits_for_a_redis_that_goes_away(tmp_path: Path, run_id: str) -> None:
    with private_redis(tmp_path) as url:
        client = RedisAccess(url).connect(patience_s=10)
        queue = RunQueue(client, run_id, "trainer")
        client.config_set("maxmemory", 1)  # refuses every write
        relief = threading.Timer(
            0.5, lambda: RedisAccess(url).connect().config_set("maxmemory", 0)
        )  # room comes while the trainer waits
        relief.start()
        queue.submit([make_job(run_id)])
        relief.join()
        assert queue.backlog() == 1


def test_trajectories_asked_for_ahead_wait_for_their_update(
    trainer: RunQueue, worker: RunQueue, redis_client: redis.Redis, run_id: str
) -> None:
    now, ahead = ([make_job(run_id, job_id=f"train/{update}/0", update=update)] for update in (1, 2))
    trainer.submit_ahead(ahead)
    trainer.submit(now)
    work_off(worker, 2)
    patience = Patience(timeout_s=5, max_attempts=1)
    trainer.submit_ahead(now)  # as if it, too, had been asked for before
    found = collect(trainer, now, LAYOUT, patience)
    assert [group.job.job_id for group in found.groups] == ["train/1/0"] and found.unexpected == 0
    later = collect(trainer, ahead, LAYOUT, patience)
    assert [group.job.job_id for group in later.groups] == ["train/2/0"]
    trainer.acknowledge(found.entry_ids + later.entry_ids)
    assert redis_client.xlen(f"varl:{run_id}:trajectories") <= 1  # the repeat of the job that was queued twice
