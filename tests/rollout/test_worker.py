"""The rollout service as a process: real Redis, real gRPC rewards, a real (tiny, random) policy."""

from __future__ import annotations

import io
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import grpc
import numpy as np
import pytest
import redis
import torch
from grpc_health.v1 import health_pb2, health_pb2_grpc
from PIL import Image

from tests.support.rollout_helpers import (
    HOLD,
    POISON,
    WAIT_S,
    RolloutProcess,
    RunningReward,
    brightness,
    receive_all,
    rollout_process,
    run_jobs,
    running_reward,
    start_rollout,
    wait_until_ready,
)
from tests.support.trajectory_builders import make_job
from varl.launch.ports import reserve_port
from varl.policy.base import cells
from varl.policy.nextflow import NextFlowPolicy, build_random, load
from varl.services.rollout.generation import Limits, TokensStep, generate
from varl.trajectories.queue import RunQueue, connect
from varl.trajectories.tokens import unpack
from varl.v1 import rollout_pb2, rollout_pb2_grpc, trajectory_pb2

RUN = "rollout-test"
FULL, PREFIX, SUFFIX = rollout_pb2.STAGE_FULL, rollout_pb2.STAGE_PREFIX, rollout_pb2.STAGE_SUFFIX
SPLIT, CONTINUATIONS = 3, 2


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    build_random().save(folder)
    return folder


@pytest.fixture(scope="module")
def policy(model_dir: Path) -> NextFlowPolicy:
    return load(model_dir)


@pytest.fixture(scope="module")
def reward() -> Iterator[RunningReward]:
    with running_reward() as running:
        yield running


@pytest.fixture(scope="module")
def worker(redis_server: str, model_dir: Path, reward: RunningReward) -> Iterator[RolloutProcess]:
    with rollout_process(
        redis_server, RUN, model_dir, {"bright": reward.target}, "--decode-batch", "2", "--min-idle-s", "3"
    ) as running:
        yield running


@pytest.fixture
def queue(redis_client: redis.Redis, worker: RolloutProcess) -> RunQueue:
    return RunQueue(redis_client, RUN, "trainer")


@pytest.fixture
def stub(worker: RolloutProcess) -> Iterator[rollout_pb2_grpc.RolloutServiceStub]:
    with grpc.insecure_channel(worker.grpc_target) as channel:
        yield rollout_pb2_grpc.RolloutServiceStub(channel)


def stage_job(
    job_id: str, stage: rollout_pb2.Stage = FULL, run_id: str = RUN, prompt: str = "a red sign that says 'BREAD'"
) -> rollout_pb2.RolloutJob:
    return make_job(
        run_id,
        job_id=job_id,
        prompt=prompt,
        stage=stage,
        split_scale=0 if stage == FULL else SPLIT,
        group_size=3,
        continuations=CONTINUATIONS if stage == PREFIX else 1,
        sampling=rollout_pb2.Sampling(temperature=0.9, top_k=20, top_p=0.95, cfg=1.5),
        rewards=["bright"],
        want_images=True,
    )


def changed(job: rollout_pb2.RolloutJob, **fields: object) -> rollout_pb2.RolloutJob:
    other = rollout_pb2.RolloutJob()
    other.CopyFrom(job)
    other.MergeFrom(rollout_pb2.RolloutJob(**fields))  # type: ignore[arg-type]  # any fields
    return other


def png(data: bytes) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.asarray(Image.open(io.BytesIO(data), formats=["PNG"]))


def rewards_of(group: trajectory_pb2.Group) -> list[list[float]]:
    return [
        [continuation.rewards["bright"] for continuation in candidate.continuations] for candidate in group.candidates
    ]


def test_groups_of_all_stages_hold_what_the_policy_drew_and_the_reward_saw(
    queue: RunQueue, policy: NextFlowPolicy, reward: RunningReward
) -> None:
    jobs = [stage_job(f"stages/{stage}", stage) for stage in (FULL, PREFIX, SUFFIX)]
    for job, trajectory in zip(jobs, run_jobs(queue, jobs), strict=True):
        group = trajectory.group
        assert group.job == job
        assert [(grid.height, grid.width) for grid in group.grids] == list(policy.grids)
        assert (group.image_height, group.image_width) == policy.image_size == (64, 64)
        assert group.models["bright"].name == "brightness"
        assert group.worker and group.generate_seconds > 0 and group.score_seconds > 0
        check_tokens(group, policy)
        check_reproduced(group, policy)
        check_images(group, policy)
    assert max(reward.servicer.requests) == 2  # images leave as soon as they are decoded, not when the group is done


def tokens_of(group: trajectory_pb2.Group, data: bytes) -> list[int]:
    return [int(token) for token in unpack(data, group.bits_per_site)]


def check_tokens(group: trajectory_pb2.Group, policy: NextFlowPolicy) -> None:
    counts = cells(policy.grids)
    expected = {FULL: sum(counts), PREFIX: sum(counts[:SPLIT]), SUFFIX: sum(counts[SPLIT:])}[group.job.stage]
    assert [len(tokens_of(group, candidate.tokens)) for candidate in group.candidates] == [expected] * 3
    tokens = torch.tensor([tokens_of(group, group.prefix_tokens + candidate.tokens) for candidate in group.candidates])
    with torch.no_grad():
        scored = policy.distribution(group.job.prompt, tokens, SPLIT if group.job.stage == SUFFIX else 0)
        log_probs = scored.log_prob(tokens[:, -expected:])
    assert torch.allclose(
        torch.tensor([list(candidate.log_probs) for candidate in group.candidates]), log_probs, atol=1e-4
    )


def check_reproduced(group: trajectory_pb2.Group, policy: NextFlowPolicy) -> None:
    """Another process, asked for the same job, draws the same tokens with the same log-probs, bit for bit."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    (step,) = (step for step in generate(policy, group.job, Limits(64, 2)) if isinstance(step, TokensStep))
    torch.set_num_threads(threads)
    assert step.prefix == tokens_of(group, group.prefix_tokens)
    assert step.tokens == [tokens_of(group, candidate.tokens) for candidate in group.candidates]
    assert step.log_probs == [list(candidate.log_probs) for candidate in group.candidates]


def check_images(group: trajectory_pb2.Group, policy: NextFlowPolicy) -> None:
    copies = CONTINUATIONS if group.job.stage == PREFIX else 1
    for candidate in group.candidates:
        assert [bool(continuation.image) for continuation in candidate.continuations] == [True] + [False] * (copies - 1)
        first = candidate.continuations[0]
        pixels = png(first.image)
        assert first.rewards["bright"] == brightness(pixels)
        assert (first.regions[0].text, list(first.regions[0].polygon)) == (
            str(len(first.image)),
            [0, 0, 64, 0, 64, 64, 0, 64],
        )
        if group.job.stage != PREFIX:
            whole = torch.tensor([tokens_of(group, group.prefix_tokens + candidate.tokens)])
            assert np.abs(policy.decode(whole)[0].astype(int) - pixels).max() <= 1  # rounding: decoded in another batch
    values = [value for row in rewards_of(group) for value in row]
    assert len(values) == 3 * copies == len(set(values))


@pytest.mark.parametrize("stage", [FULL, PREFIX, SUFFIX])
def test_same_job_twice_gives_the_same_group(queue: RunQueue, stage: rollout_pb2.Stage) -> None:
    job = stage_job(f"twice/{stage}/a", stage)
    again, other_seed = (
        changed(job, job_id=f"twice/{stage}/b"),
        changed(job, job_id=f"twice/{stage}/c", seed=job.seed + 1),
    )
    first, second, third = (trajectory.group for trajectory in run_jobs(queue, [job, again, other_seed]))
    assert first.candidates == second.candidates
    assert first.prefix_tokens == second.prefix_tokens
    assert first.candidates != third.candidates


def test_poisoned_score_is_a_typed_failure_and_the_next_job_is_served(queue: RunQueue) -> None:
    poisoned, sound = run_jobs(queue, [stage_job("poison", prompt=f"a sign {POISON}"), stage_job("after-poison")])
    assert poisoned.failure.code == trajectory_pb2.FAILURE_CODE_SCORE_FAILED
    assert "bright" in poisoned.failure.detail and "poisoned" in poisoned.failure.detail
    assert poisoned.failure.job.job_id == "poison"
    assert len(sound.group.candidates) == 3


def test_reward_without_a_service_is_a_typed_failure(queue: RunQueue) -> None:
    (trajectory,) = run_jobs(queue, [changed(stage_job("no-such-reward"), rewards=["beauty"])])
    assert trajectory.failure.code == trajectory_pb2.FAILURE_CODE_REWARD_UNAVAILABLE
    assert "beauty" in trajectory.failure.detail


def test_job_beyond_the_model_is_a_typed_failure(queue: RunQueue) -> None:
    job = stage_job("beyond", PREFIX)
    job.split_scale = 5
    long = stage_job("long", prompt="x" * 100_000)
    beyond, too_long = run_jobs(queue, [job, long])
    assert beyond.failure.code == too_long.failure.code == trajectory_pb2.FAILURE_CODE_BAD_JOB
    assert "split_scale" in beyond.failure.detail


def test_weights_follow_the_job(
    queue: RunQueue, policy: NextFlowPolicy, tmp_path: Path, worker: RolloutProcess
) -> None:
    trained = build_random()
    with torch.no_grad():
        trained.module.state_dict()[next(name for name, _ in trained.module.named_parameters())].mul_(-1)
    trained.save_weights(str(tmp_path / "v000005.safetensors"))
    (tmp_path / "broken.safetensors").write_bytes(b"not a weight file")
    with torch.no_grad():
        next(trained.module.parameters()).fill_(float("nan"))
    trained.save_weights(str(tmp_path / "diverged.safetensors"))
    base = stage_job("weights/base")
    jobs = [
        base,
        changed(base, job_id="weights/new", weight_version=5, weight_path=str(tmp_path / "v000005.safetensors")),
        changed(base, job_id="weights/missing", weight_version=6, weight_path=str(tmp_path / "v000006.safetensors")),
        changed(base, job_id="weights/broken", weight_version=7, weight_path=str(tmp_path / "broken.safetensors")),
        changed(base, job_id="weights/diverged", weight_version=8, weight_path=str(tmp_path / "diverged.safetensors")),
        changed(base, job_id="weights/base-again"),
    ]
    old, new, missing, broken, diverged, again = run_jobs(queue, jobs)
    trained.load_weights(str(tmp_path / "v000005.safetensors"))
    check_tokens(new.group, trained)
    assert [candidate.tokens for candidate in new.group.candidates] != [
        candidate.tokens for candidate in old.group.candidates
    ]
    assert missing.failure.code == broken.failure.code == trajectory_pb2.FAILURE_CODE_WEIGHTS_MISSING
    assert "v000006.safetensors" in missing.failure.detail and "broken.safetensors" in broken.failure.detail
    assert diverged.failure.code == trajectory_pb2.FAILURE_CODE_BAD_JOB
    assert "log_probs must be finite" in diverged.failure.detail
    assert again.group.candidates == old.group.candidates
    run_jobs(
        queue, [changed(base, job_id="weights/last")]
    )  # the broken file was tried again meanwhile, which leaves none loaded


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


def test_generate_gives_the_images_of_the_seed(
    stub: rollout_pb2_grpc.RolloutServiceStub, policy: NextFlowPolicy, queue: RunQueue
) -> None:
    job = stage_job("generate")
    request = rollout_pb2.GenerateRequest(prompt=job.prompt, count=3, seed=job.seed, sampling=job.sampling)
    answer = stub.Generate(request)
    assert [png(image).shape for image in answer.images] == [(64, 64, 3)] * 3
    assert stub.Generate(request) == answer
    (trajectory,) = run_jobs(queue, [job])
    assert [brightness(png(image)) for image in answer.images] == [row[0] for row in rewards_of(trajectory.group)]
    assert len(stub.Generate(rollout_pb2.GenerateRequest(prompt="x", count=1)).images) == 1


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (rollout_pb2.GenerateRequest(count=1), "prompt"),
        (rollout_pb2.GenerateRequest(prompt="x" * 100_000, count=1), "prompt"),
        (rollout_pb2.GenerateRequest(prompt="x"), "count"),
        (rollout_pb2.GenerateRequest(prompt="x", count=17), "count"),
        (
            rollout_pb2.GenerateRequest(prompt="x", count=1, sampling=rollout_pb2.Sampling(top_p=1)),
            "sampling.temperature",
        ),
        (
            rollout_pb2.GenerateRequest(prompt="x", count=1, sampling=rollout_pb2.Sampling(temperature=1, top_p=2)),
            "sampling.top_p",
        ),
        (
            rollout_pb2.GenerateRequest(
                prompt="x", count=1, sampling=rollout_pb2.Sampling(temperature=float("nan"), top_p=1)
            ),
            "sampling.temp",
        ),
    ],
)
def test_bad_generate_request_names_its_field(
    stub: rollout_pb2_grpc.RolloutServiceStub, request_: rollout_pb2.GenerateRequest, field: str
) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        stub.Generate(request_)
    error = raised.value
    assert isinstance(error, grpc.Call)
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert field in error.details()
    assert len(stub.Generate(rollout_pb2.GenerateRequest(prompt="x", count=1)).images) == 1


def test_metrics_count_groups_by_outcome(worker: RolloutProcess, queue: RunQueue) -> None:
    before = worker.metrics()
    run_jobs(queue, [stage_job("metrics/ok"), stage_job("metrics/poison", prompt=POISON)])
    gains = {'groups_total{outcome="ok"}': 1, 'groups_total{outcome="score_failed"}': 1, "generate_seconds_count": 1}
    expected = {f"varl_rollout_{name}": before.get(f"varl_rollout_{name}", 0) + gain for name, gain in gains.items()}
    deadline = time.monotonic() + WAIT_S
    while (
        after := worker.metrics()
    ) | expected != after and time.monotonic() < deadline:  # counted just after publishing
        time.sleep(0.05)
    assert after | expected == after
    assert after["varl_rollout_images_total"] >= before.get("varl_rollout_images_total", 0) + 5
