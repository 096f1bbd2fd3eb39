"""Workers that are killed, stopped, cut off from Redis or kept waiting: what becomes of their jobs."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
import redis
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.support.rollout_helpers import (
    HOLD,
    WAIT_S,
    receive_all,
    rollout_process,
    run_jobs,
    running_reward,
    start_rollout,
    wait_until_ready,
)
from tests.support.worker_jobs import FULL, PREFIX, SUFFIX, changed, stage_job
from varl.launch.ports import reserve_port
from varl.policy.nextflow import NextFlowPolicy
from varl.trajectories.queue import RunQueue, connect


def test_generation_goes_on_while_a_group_is_scored(
    redis_client: redis.Redis, redis_server: str, run_id: str, model_dir: Path
) -> None:
    queue = RunQueue(redis_client, run_id, "trainer")
    with running_reward() as reward, rollout_process(redis_server, run_id, model_dir, {"bright": reward.target}):
        queue.submit([stage_job("held", run_id=run_id, prompt=HOLD), stage_job("quick", run_id=run_id)])
        receive_all(queue, ["quick"])
        assert reward.servicer.holding.is_set() and not reward.servicer.release.is_set()
        reward.servicer.release.set()
        receive_all(queue, ["held"])


def test_job_of_a_killed_worker_is_finished_once_by_another(redis_server: str, run_id: str, model_dir: Path) -> None:
    queue = RunQueue(connect(redis_server), run_id, "trainer")
    jobs = [stage_job(f"job/{i}", (FULL, PREFIX, SUFFIX)[i % 3], run_id, prompt=f"{HOLD} {i}") for i in range(5)]
    flags = ("--min-idle-s", "2", "--max-deliveries", "20")
    with running_reward() as reward:
        with rollout_process(redis_server, run_id, model_dir, {"bright": reward.target}, *flags) as first:
            queue.submit(jobs)
            assert reward.servicer.holding.wait(WAIT_S)
            first.process.send_signal(signal.SIGKILL)
            first.process.wait()
        reward.servicer.release.set()
        assert queue.receive(16, 100) == []
        with rollout_process(redis_server, run_id, model_dir, {"bright": reward.target}, *flags) as second:
            found = receive_all(queue, [job.job_id for job in jobs])
            assert all(found[job.job_id].group.job == job for job in jobs)
            again = [changed(job, job_id=f"again/{job.job_id}") for job in jobs]
            repeats = run_jobs(queue, again)
            assert [repeat.group.candidates for repeat in repeats] == [
                found[job.job_id].group.candidates for job in jobs
            ]
            second.process.send_signal(signal.SIGTERM)
            assert second.process.wait(WAIT_S) == 0
    assert queue.receive(16, 100) == []
    assert queue.take_job(0, 0) is None


def test_broken_connections_to_redis_lose_nothing(redis_server: str, run_id: str, model_dir: Path) -> None:
    client = connect(redis_server)
    queue = RunQueue(client, run_id, "trainer")
    jobs = [stage_job(f"job/{i}", run_id=run_id, prompt=f"{HOLD} {i}") for i in range(4)]
    flags = ("--min-idle-s", "2", "--max-deliveries", "20")
    with (
        running_reward() as reward,
        rollout_process(redis_server, run_id, model_dir, {"bright": reward.target}, *flags),
    ):
        client.client_kill_filter(_type="normal", skipme=True)
        queue.submit(jobs)
        assert reward.servicer.holding.wait(WAIT_S)
        client.client_kill_filter(_type="normal", skipme=True)
        reward.servicer.release.set()
        receive_all(queue, [job.job_id for job in jobs])
    assert queue.receive(16, 100) == []


def test_heartbeats_keep_a_long_job(redis_server: str, run_id: str, model_dir: Path) -> None:
    client = connect(redis_server)
    queue = RunQueue(client, run_id, "trainer")
    flags = ("--min-idle-s", "2")
    with (
        running_reward() as reward,
        rollout_process(redis_server, run_id, model_dir, {"bright": reward.target}, *flags),
    ):
        queue.submit([stage_job("long", run_id=run_id, prompt=HOLD)])
        assert reward.servicer.holding.wait(WAIT_S)
        idle, restarts, deadline = 0, 0, time.monotonic() + WAIT_S
        while restarts < 3 and time.monotonic() < deadline:
            (state,) = cast(Any, client.xpending_range(f"varl:{run_id}:jobs", "workers", "-", "+", 1))
            restarts += state["time_since_delivered"] < idle
            idle = state["time_since_delivered"]
            time.sleep(0.05)
        assert (restarts, state["times_delivered"]) == (3, 1)
        reward.servicer.release.set()
        receive_all(queue, ["long"])


def test_sigterm_finishes_the_jobs_in_hand_and_leaves_the_rest(redis_server: str, run_id: str, model_dir: Path) -> None:
    client = connect(redis_server)
    queue = RunQueue(client, run_id, "trainer")
    jobs = [stage_job(f"job/{i}", run_id=run_id, prompt=HOLD) for i in range(3)]
    with (
        running_reward() as reward,
        rollout_process(redis_server, run_id, model_dir, {"bright": reward.target}) as running,
    ):
        queue.submit(jobs)
        assert reward.servicer.holding.wait(WAIT_S)
        while queue.backlog() > 1:  # two are taken: the service's default concurrency
            time.sleep(0.02)
        running.process.send_signal(signal.SIGTERM)
        threading.Timer(0.5, reward.servicer.release.set).start()
        assert running.process.wait(WAIT_S) == 0
    receive_all(queue, ["job/0", "job/1"])
    assert queue.backlog() == 1
    assert client.xinfo_consumers(f"varl:{run_id}:jobs", "workers") == []


def test_worker_is_not_serving_before_its_rewards_are(
    redis_server: str, run_id: str, model_dir: Path, policy: NextFlowPolicy
) -> None:
    with running_reward() as reward:
        reward.set_serving(False)
        port = reserve_port()
        process = start_rollout(redis_server, run_id, model_dir, {"bright": reward.target}, "--grpc-port", str(port))
        try:
            with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
                health = health_pb2_grpc.HealthStub(channel)
                for service in ("", "varl.v1.RolloutService"):
                    request = health_pb2.HealthCheckRequest(service=service)
                    assert (
                        health.Check(request, wait_for_ready=True, timeout=WAIT_S).status
                        == health_pb2.HealthCheckResponse.NOT_SERVING
                    )
                reward.set_serving(True)
                assert wait_until_ready(process)["grpc_port"] == port
                assert health.Check(request, timeout=WAIT_S).status == health_pb2.HealthCheckResponse.SERVING
        finally:
            process.kill()
            process.communicate()


@pytest.mark.parametrize(
    ("flags", "told"),
    [(("--ready-timeout-s", "0.5"), "RewardUnavailable"), (("--model-dir", "/nonexistent"), "config.json")],
)
def test_worker_that_cannot_start_says_why_and_exits(
    redis_server: str,
    run_id: str,
    model_dir: Path,
    flags: tuple[str, ...],
    told: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    process = start_rollout(redis_server, run_id, model_dir, {"bright": f"127.0.0.1:{reserve_port()}"}, *flags)
    assert process.wait(WAIT_S) == 1
    process.communicate()
    assert told in capfd.readouterr().err
