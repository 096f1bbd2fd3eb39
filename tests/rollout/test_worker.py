"""The rollout service as a process: real Redis, real gRPC rewards, a real (tiny, random) policy."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
import redis
import torch
from PIL import Image

from tests.support.rollout_helpers import (
    POISON,
    WAIT_S,
    RolloutProcess,
    RunningReward,
    brightness,
    rollout_process,
    run_jobs,
    running_reward,
)
from tests.support.worker_jobs import CONTINUATIONS, FULL, PREFIX, RUN, SPLIT, SUFFIX, changed, stage_job
from varl.policy.base import cells
from varl.policy.nextflow import NextFlowPolicy, build_random
from varl.services.rollout.generation import Limits, TokensStep, generate
from varl.trajectories.queue import RunQueue
from varl.trajectories.tokens import unpack
from varl.v1 import rollout_pb2, rollout_pb2_grpc, trajectory_pb2


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
