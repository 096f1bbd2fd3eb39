from __future__ import annotations

import time
from pathlib import Path
from typing import Any, cast

import pytest
import redis

from tests.support.trajectory_builders import make_job, make_trajectory
from varl.launch.private_redis import private_redis
from varl.trajectories import stream
from varl.trajectories.codec import encode_trajectory
from varl.trajectories.deliveries import Delivery, split_duplicates
from varl.trajectories.problems import CodecError
from varl.trajectories.queue import RunQueue, connect
from varl.v1 import rollout_pb2, trajectory_pb2

AT_ONCE = 0
LONG_MS = 60_000


@pytest.fixture
def trainer(redis_client: redis.Redis, run_id: str) -> RunQueue:
    return RunQueue(redis_client, run_id, "trainer-1")


@pytest.fixture
def worker(redis_client: redis.Redis, run_id: str) -> RunQueue:
    return RunQueue(redis_client, run_id, "worker-1")


@pytest.fixture
def other(redis_client: redis.Redis, run_id: str) -> RunQueue:
    return RunQueue(redis_client, run_id, "worker-2")


def jobs_of(run_id: str, count: int, version: int = 0) -> list[rollout_pb2.RolloutJob]:
    return [make_job(run_id, job_id=f"train/{version}/{i}", weight_version=version) for i in range(count)]


def take(queue: RunQueue, min_idle_ms: int = LONG_MS) -> Delivery[rollout_pb2.RolloutJob]:
    delivery = queue.take_job(AT_ONCE, min_idle_ms)
    assert delivery is not None
    return delivery


def work_off(queue: RunQueue, count: int) -> None:
    for _ in range(count):
        delivery = take(queue)
        assert queue.publish(delivery, make_trajectory(delivery.message))


def job_ids(deliveries: list[Delivery[trajectory_pb2.Trajectory]]) -> list[str]:
    return [delivery.message.group.job.job_id for delivery in deliveries]


def test_jobs_come_in_order_and_each_to_one_worker(
    trainer: RunQueue, worker: RunQueue, other: RunQueue, run_id: str
) -> None:
    jobs = jobs_of(run_id, 3)
    trainer.submit(jobs)
    assert trainer.backlog() == 3
    assert [take(worker).message, take(other).message, take(worker).message] == jobs
    assert trainer.backlog() == 0
    assert worker.take_job(AT_ONCE, LONG_MS) is None


def test_submit_is_all_or_nothing(trainer: RunQueue, run_id: str) -> None:
    with pytest.raises(CodecError, match="prompt"):
        trainer.submit([make_job(run_id), make_job(run_id, prompt="")])
    with pytest.raises(ValueError, match="run_id"):
        trainer.submit([make_job(run_id), make_job("another")])
    assert trainer.backlog() == 0


def test_published_trajectory_arrives_once_and_the_job_is_gone(
    trainer: RunQueue, worker: RunQueue, other: RunQueue, run_id: str
) -> None:
    trainer.submit(jobs_of(run_id, 2))
    work_off(worker, 2)
    assert job_ids(trainer.receive(10, AT_ONCE)) == ["train/0/0", "train/0/1"]
    assert trainer.receive(10, AT_ONCE) == []
    assert other.take_job(AT_ONCE, AT_ONCE) is None


def test_receive_gives_at_most_count(trainer: RunQueue, worker: RunQueue, run_id: str) -> None:
    trainer.submit(jobs_of(run_id, 3))
    work_off(worker, 3)
    assert job_ids(trainer.receive(2, AT_ONCE)) == ["train/0/0", "train/0/1"]
    assert job_ids(trainer.receive(2, AT_ONCE)) == ["train/0/2"]


def test_only_acknowledge_makes_the_trainer_forget(
    trainer: RunQueue, worker: RunQueue, redis_client: redis.Redis, run_id: str
) -> None:
    trainer.submit(jobs_of(run_id, 3))
    work_off(worker, 3)
    received = trainer.receive(10, AT_ONCE)
    trainer.acknowledge([received[0].entry_id])
    restarted = RunQueue(redis_client, run_id, "trainer-2")
    assert restarted.receive(10, AT_ONCE) == received_again(received[1:])
    third = RunQueue(redis_client, run_id, "trainer-3")
    recovered = third.recover()
    assert job_ids(recovered) == ["train/0/1", "train/0/2"]
    assert all(delivery.deliveries > 1 for delivery in recovered)
    assert third.recover() == []
    third.acknowledge([delivery.entry_id for delivery in recovered])
    third.acknowledge([])
    assert RunQueue(redis_client, run_id, "trainer-4").recover() == []
    assert redis_client.xlen(f"varl:{run_id}:trajectories") == 0


def received_again(deliveries: list[Delivery[trajectory_pb2.Trajectory]]) -> list[Delivery[trajectory_pb2.Trajectory]]:
    return [Delivery(delivery.entry_id, delivery.message, delivery.deliveries + 1) for delivery in deliveries]


def test_entries_lost_on_the_way_are_handed_out_again(
    trainer: RunQueue, worker: RunQueue, redis_client: redis.Redis, run_id: str
) -> None:
    trainer.submit(jobs_of(run_id, 2))
    work_off(worker, 2)
    # What a broken connection leaves: Redis has delivered to this consumer, and nobody has seen the reply.
    redis_client.xreadgroup("trainer", "trainer-1", {f"varl:{run_id}:trajectories": ">"})
    assert job_ids(trainer.receive(1, AT_ONCE)) == ["train/0/0"]
    assert job_ids(trainer.receive(1, AT_ONCE)) == ["train/0/1"]
    assert trainer.receive(1, AT_ONCE) == []


def test_idle_job_goes_to_another_worker_and_is_published_once(
    trainer: RunQueue, worker: RunQueue, other: RunQueue, run_id: str
) -> None:
    trainer.submit(jobs_of(run_id, 1))
    first = take(worker)
    assert other.take_job(AT_ONCE, LONG_MS) is None
    second = take(other, min_idle_ms=0)
    assert (second.message, second.deliveries) == (first.message, 2)
    assert other.publish(second, make_trajectory(second.message))
    assert not worker.publish(first, make_trajectory(first.message))
    assert len(trainer.receive(10, AT_ONCE)) == 1


def test_what_dead_workers_held_goes_to_the_next_at_once(
    trainer: RunQueue, worker: RunQueue, other: RunQueue, run_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "PAGE", 2)
    trainer.submit(jobs_of(run_id, 6))
    held = [take(worker), take(worker), take(other), take(other), take(other)]
    assert trainer.release_all() == 5
    taken = [take(other) for _ in held]
    assert [delivery.message for delivery in taken] == [delivery.message for delivery in held]
    assert [delivery.deliveries for delivery in taken] == [2] * 5
    assert take(other).deliveries == 1


def test_heartbeat_starts_the_idle_time_again(
    trainer: RunQueue, worker: RunQueue, redis_client: redis.Redis, run_id: str
) -> None:
    trainer.submit(jobs_of(run_id, 1))
    delivery = take(worker)
    time.sleep(1)
    (before,) = cast(Any, redis_client.xpending_range(f"varl:{run_id}:jobs", "workers", "-", "+", 1))
    worker.heartbeat(delivery.entry_id)
    (after,) = cast(Any, redis_client.xpending_range(f"varl:{run_id}:jobs", "workers", "-", "+", 1))
    assert before["time_since_delivered"] >= 1000 > after["time_since_delivered"]
    assert after["times_delivered"] == before["times_delivered"] == 1


def test_heartbeat_does_not_revive_a_finished_job(
    trainer: RunQueue, worker: RunQueue, other: RunQueue, run_id: str
) -> None:
    trainer.submit(jobs_of(run_id, 1))
    delivery = take(worker)
    worker.publish(delivery, make_trajectory(delivery.message))
    worker.heartbeat(delivery.entry_id)
    assert other.take_job(AT_ONCE, AT_ONCE) is None


def test_duplicates_are_dropped_until_acknowledged(
    trainer: RunQueue, worker: RunQueue, redis_client: redis.Redis, run_id: str
) -> None:
    job = make_job(run_id)
    trainer.submit([job, job, make_job(run_id, attempt=1)])
    work_off(worker, 3)
    received = trainer.receive(10, AT_ONCE)
    assert [delivery.message.group.job.attempt for delivery in received] == [0, 1]
    assert redis_client.xlen(f"varl:{run_id}:trajectories") == 2
    trainer.acknowledge([delivery.entry_id for delivery in received])
    trainer.submit([job])
    work_off(worker, 1)
    assert len(trainer.receive(10, AT_ONCE)) == 1


def test_split_duplicates_keeps_the_first_of_each_job_and_attempt() -> None:
    ids = [("a", 0), ("b", 0), ("a", 0), ("a", 1), ("c", 0)]
    deliveries = [
        Delivery(str(n), make_trajectory(make_job(job_id=name, attempt=attempt)), 1)
        for n, (name, attempt) in enumerate(ids)
    ]
    fresh, repeats = split_duplicates(deliveries, held=[("c", 0)])
    assert [delivery.entry_id for delivery in fresh] == ["0", "1", "3"]
    assert [delivery.entry_id for delivery in repeats] == ["2", "4"]


def test_job_delivered_too_often_is_a_dead_letter_and_a_typed_failure(
    trainer: RunQueue, redis_client: redis.Redis, run_id: str
) -> None:
    trainer.submit([make_job(run_id, job_id="poison"), make_job(run_id, job_id="sound")])
    workers = [RunQueue(redis_client, run_id, f"worker-{i}", max_deliveries=2) for i in range(3)]
    assert [take(queue, 0).message.job_id for queue in workers[:2]] == ["poison", "poison"]
    assert take(workers[2], 0).message.job_id == "sound"
    (delivery,) = trainer.receive(10, AT_ONCE)
    failure = delivery.message.failure
    assert (failure.job.job_id, failure.code) == ("poison", trajectory_pb2.FAILURE_CODE_DEAD_LETTER)
    assert "2 times" in failure.detail
    (reason,) = (fields[b"reason"] for _, fields in cast(Any, redis_client.xrange(f"varl:{run_id}:dead")))
    assert b"2 times" in reason


def test_undecodable_job_does_not_stop_the_worker(
    trainer: RunQueue, worker: RunQueue, redis_client: redis.Redis, run_id: str
) -> None:
    bad = make_job(run_id, job_id="bad", group_size=0)
    redis_client.xadd(f"varl:{run_id}:jobs", {b"m": b"\xff\xff junk"})
    redis_client.xadd(f"varl:{run_id}:jobs", {b"m": bad.SerializeToString()})
    trainer.submit([make_job(run_id, job_id="sound")])
    assert worker.take_job(AT_ONCE, LONG_MS) is None
    assert worker.take_job(AT_ONCE, LONG_MS) is None
    assert take(worker).message.job_id == "sound"
    (delivery,) = trainer.receive(10, AT_ONCE)
    assert delivery.message.failure.job == bad
    assert "group_size" in delivery.message.failure.detail
    assert redis_client.xlen(f"varl:{run_id}:dead") == 2


def test_undecodable_trajectory_is_a_counted_dead_letter(
    trainer: RunQueue, redis_client: redis.Redis, run_id: str
) -> None:
    key = f"varl:{run_id}:trajectories"
    redis_client.xadd(key, {b"m": b"\xff\xff junk"})
    redis_client.xadd(key, {b"x": b"no payload"})
    redis_client.xadd(key, {b"m": encode_trajectory(make_trajectory(make_job(run_id)))})
    assert job_ids(trainer.receive(10, AT_ONCE)) == ["train/1/0"]
    assert trainer.undecodable.total() == 2
    assert redis_client.xlen(f"varl:{run_id}:dead") == 2
    assert RunQueue(redis_client, run_id, "later").recover()[0].message.group.job.job_id == "train/1/0"


def test_publish_refuses_an_invalid_trajectory_and_keeps_the_job(
    trainer: RunQueue, worker: RunQueue, other: RunQueue, run_id: str
) -> None:
    trainer.submit(jobs_of(run_id, 1))
    delivery = take(worker)
    broken = make_trajectory(delivery.message)
    broken.group.candidates[0].tokens = b""
    with pytest.raises(CodecError):
        worker.publish(delivery, broken)
    assert take(other, min_idle_ms=0).message == delivery.message


def test_purge_drops_later_versions_wherever_they_are(
    trainer: RunQueue, worker: RunQueue, other: RunQueue, run_id: str
) -> None:
    trainer.submit(jobs_of(run_id, 2, version=1) + jobs_of(run_id, 4, version=2))
    work_off(worker, 3)  # both of version 1, one of version 2
    held = trainer.receive(3, AT_ONCE)
    in_hand = take(worker)
    assert trainer.purge(2) == 4  # one received, one in hand, two waiting
    assert not worker.publish(in_hand, make_trajectory(in_hand.message))
    assert trainer.backlog() == 0
    assert other.take_job(AT_ONCE, AT_ONCE) is None
    trainer.submit(jobs_of(run_id, 1, version=2))  # the resumed run asks for the same job again
    work_off(other, 1)
    assert job_ids(trainer.receive(3, AT_ONCE)) == ["train/2/0"]
    assert job_ids(held)[:2] == ["train/1/0", "train/1/1"]
    assert trainer.purge(2) == 1
    assert trainer.purge(3) == 0


def test_entries_deleted_by_someone_else_do_not_haunt_the_worker(
    trainer: RunQueue, worker: RunQueue, other: RunQueue, redis_client: redis.Redis, run_id: str
) -> None:
    trainer.submit(jobs_of(run_id, 2))
    redis_client.xdel(f"varl:{run_id}:jobs", take(worker).entry_id)
    assert take(other, min_idle_ms=0).message.job_id == "train/0/1"
    assert redis_client.xpending(f"varl:{run_id}:jobs", "workers")["pending"] == 1


def test_more_idle_jobs_than_a_page_are_all_claimed(
    trainer: RunQueue, worker: RunQueue, other: RunQueue, redis_client: redis.Redis, run_id: str
) -> None:
    trainer.submit(jobs_of(run_id, 300))
    for _ in range(300):
        take(worker)
    seen = set()
    for _ in range(300):
        delivery = take(other, min_idle_ms=0)
        seen.add(delivery.message.job_id)
        other.publish(delivery, make_trajectory(delivery.message))
    assert len(seen) == 300
    received = [delivery for _ in range(30) for delivery in trainer.receive(10, AT_ONCE)]
    assert set(job_ids(received)) == seen
    assert len(RunQueue(redis_client, run_id, "next").recover()) == 300


def test_blocking_read_outlives_the_default_socket_timeout(redis_server: str, run_id: str) -> None:
    short = redis.Redis.from_url(redis_server, socket_timeout=0.4, retry=None)
    assert RunQueue(short, run_id, "trainer").receive(1, block_ms=LONG_MS) == []


def test_leave_removes_only_an_idle_worker(
    trainer: RunQueue, worker: RunQueue, other: RunQueue, redis_client: redis.Redis, run_id: str
) -> None:
    trainer.submit(jobs_of(run_id, 2))
    work_off(worker, 1)
    take(other)
    worker.leave()
    other.leave()
    assert [row["name"] for row in redis_client.xinfo_consumers(f"varl:{run_id}:jobs", "workers")] == [b"worker-2"]


def test_runs_do_not_see_each_other(trainer: RunQueue, redis_client: redis.Redis, run_id: str) -> None:
    trainer.submit(jobs_of(run_id, 1))
    assert RunQueue(redis_client, f"{run_id}-b", "worker").take_job(AT_ONCE, AT_ONCE) is None


def test_queue_survives_a_restart_of_redis(tmp_path: Path, run_id: str) -> None:
    with private_redis(tmp_path) as url:
        RunQueue(connect(url), run_id, "trainer").submit(jobs_of(run_id, 2))
        take(RunQueue(connect(url), run_id, "worker"))
    with private_redis(tmp_path) as url:
        queue = RunQueue(connect(url), run_id, "worker-2")
        assert queue.backlog() == 1
        assert take(queue, min_idle_ms=0).deliveries == 2
