from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import redis
import torch

from tests.support.rollout_helpers import HOLD, POISON, RunningReward, brightness, running_reward
from tests.support.trajectory_builders import make_job
from varl.policy.nextflow import NextFlowPolicy, build_random
from varl.policy.nextflow.state import NextFlowState
from varl.services.rollout.assembly import SampledGroup, Timings, build_group
from varl.services.rollout.generation import ImagesStep, Limits, TokensStep
from varl.services.rollout.metrics import Metrics
from varl.services.rollout.model import ModelThread, Weights
from varl.services.rollout.scoring import BatchScorer, ScoredBatch, ScoringFailure, find_problem
from varl.services.rollout.worker import Parts, Worker, WorkerSettings
from varl.services.serving.grpc.client import RewardClient
from varl.trajectories.codec import encode_trajectory, job_of
from varl.trajectories.deliveries import Delivery
from varl.trajectories.queue import RunQueue
from varl.v1 import reward_pb2, trajectory_pb2

JOB = make_job(rewards=["bright"], group_size=2)
TIMEOUT_S = 120.0
WORK = WorkerSettings("worker", concurrency=2, min_idle_ms=1000, limits=Limits(8, 8))


@pytest.fixture
def reward() -> Iterator[RunningReward]:
    with running_reward() as running:
        yield running


def images_step(count: int = 2, first: int = 0) -> ImagesStep:
    pixels = np.random.default_rng(first).integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)
    return ImagesStep([(first + i, 0) for i in range(count)], pixels)


PLACES = [(0, 0), (1, 0)]


def scored_group(batches: Sequence[ScoredBatch]) -> trajectory_pb2.Group | ScoringFailure:
    sampled = SampledGroup()
    sampled.add(TokensStep([], [[0] * 121] * 2, [[-1.0] * 121] * 2))
    return build_group(JOB, build_random(), sampled, batches, "worker", Timings(1, 1))


def scored_batches(results: Sequence[reward_pb2.Result], revisions: Sequence[str]) -> list[ScoredBatch]:
    """A batch for each candidate, answered by models of these revisions."""
    return [
        ScoredBatch({place: b""}, {"bright": answer(results, revision)}, {})
        for place, revision in zip(PLACES, revisions, strict=True)
    ]


def answer(results: Sequence[reward_pb2.Result], revision: str = "1") -> reward_pb2.ScoreResponse:
    return reward_pb2.ScoreResponse(reward="bright", model=reward_pb2.Model(revision=revision), results=results)


def result(name: str, value: float) -> reward_pb2.Result:
    return reward_pb2.Result(id=name, score=reward_pb2.Score(value=value))


def located(name: str, *polygon: float) -> reward_pb2.Result:
    return reward_pb2.Result(id=name, score=reward_pb2.Score(value=0, regions=[reward_pb2.Region(polygon=polygon)]))


async def test_scores_are_those_of_the_very_pixels(reward: RunningReward) -> None:
    step = images_step()
    async with RewardClient(reward.target, TIMEOUT_S) as client:
        batch = await (await BatchScorer({"bright": client}, 1).start(JOB, step))
    assert isinstance(batch, ScoredBatch)
    scores = [result.score for result in batch.required["bright"].results]
    assert [score.value for score in scores] == [brightness(pixels) for pixels in step.pixels]
    assert [score.words[0].text for score in scores] == [str(len(file)) for file in batch.files.values()]


async def test_every_named_reward_is_asked_and_one_error_fails_the_batch(reward: RunningReward) -> None:
    both = make_job(rewards=["bright", "again"])
    async with RewardClient(reward.target, TIMEOUT_S) as client:
        scorer = BatchScorer({"bright": client, "again": client}, 1)
        batch = await (await scorer.start(both, images_step()))
        poisoned = await (await scorer.start(make_job(rewards=["bright"], prompt=POISON), images_step()))
    assert isinstance(batch, ScoredBatch)
    assert set(batch.required) == {"bright", "again"} and not batch.optional
    assert poisoned == ScoringFailure(
        trajectory_pb2.FAILURE_CODE_SCORE_FAILED, "reward 'bright', sample 1/0: ERROR_CODE_ENGINE_FAILED: poisoned"
    )


@pytest.mark.parametrize("held", [False, True])
async def test_service_that_is_gone_or_too_slow_is_unavailable(reward: RunningReward, held: bool) -> None:
    target = reward.target if held else "127.0.0.1:1"
    async with RewardClient(target, 0.5) as client:
        outcome = await (
            await BatchScorer({"bright": client}, 1).start(make_job(rewards=["bright"], prompt=HOLD), images_step())
        )
    assert isinstance(outcome, ScoringFailure)
    assert outcome.code == trajectory_pb2.FAILURE_CODE_REWARD_UNAVAILABLE
    assert "bright" in outcome.detail


async def test_batches_in_flight_are_bounded(reward: RunningReward) -> None:
    async with RewardClient(reward.target, TIMEOUT_S) as client:
        scorer = BatchScorer({"bright": client}, 2)
        held = make_job(rewards=["bright"], prompt=HOLD)
        tasks = [await scorer.start(held, images_step(first=i)) for i in range(2)]
        third = asyncio.create_task(scorer.start(held, images_step(first=2)))
        await asyncio.to_thread(reward.servicer.holding.wait, TIMEOUT_S)
        await asyncio.sleep(0.2)
        assert not third.done() and len(reward.servicer.requests) <= 2
        reward.servicer.release.set()
        assert all(isinstance(batch, ScoredBatch) for batch in await asyncio.gather(*tasks, await third))


@pytest.mark.parametrize(
    ("results", "detail"),
    [
        ([result("0/0", 1.0)], "sample 1/0: no result"),
        ([result("0/0", 1.0), result("1/0", math.nan)], "sample 1/0: value is nan"),
        ([result("0/0", math.inf), result("1/0", 0.0)], "sample 0/0: value is inf"),
        ([result("0/0", 1.0), reward_pb2.Result(id="1/0")], "sample 1/0: ERROR_CODE_UNSPECIFIED"),
        ([result("0/0", 1.0), located("1/0", 0, 0, 9, 0, 9)], "sample 1/0: polygon must hold 3..64 corners"),
        ([located("0/0", 0, 0, 9, 0, 9, math.nan), result("1/0", 1.0)], "sample 0/0: polygon must be finite"),
    ],
)
def test_answer_with_a_hole_is_a_failure_not_a_number(results: list[reward_pb2.Result], detail: str) -> None:
    failure = find_problem(PLACES, "bright", answer(results))
    assert failure is not None
    assert failure.code == trajectory_pb2.FAILURE_CODE_SCORE_FAILED
    assert detail in failure.detail


def test_results_are_matched_by_id_not_by_order() -> None:
    results = [result("1/0", 1.0), result("0/0", -2.0)]
    assert find_problem(PLACES, "bright", answer(results)) is None
    group = scored_group([ScoredBatch(dict.fromkeys(PLACES, b""), {"bright": answer(results)}, {})])
    assert isinstance(group, trajectory_pb2.Group)
    assert [candidate.continuations[0].rewards["bright"] for candidate in group.candidates] == [-2.0, 1.0]


def test_words_and_regions_of_a_score_become_regions_of_its_image() -> None:
    score = reward_pb2.Score(
        words=[reward_pb2.Word(text="CAT", confidence=0.5, polygon=[0, 0, 9, 0, 9, 9])],
        regions=[reward_pb2.Region(label="hand", polygon=[1, 1, 2, 1, 2, 2])],
    )
    results = [reward_pb2.Result(id=name, score=score) for name in ("0/0", "1/0")]
    group = scored_group([ScoredBatch(dict.fromkeys(PLACES, b""), {"bright": answer(results)}, {})])
    assert isinstance(group, trajectory_pb2.Group)
    word, hand = group.candidates[1].continuations[0].regions
    assert (word.reward, word.text, word.confidence, list(word.polygon)) == ("bright", "CAT", 0.5, [0, 0, 9, 0, 9, 9])
    assert (hand.reward, hand.text, hand.confidence, list(hand.polygon)) == ("bright", "hand", 1, [1, 1, 2, 1, 2, 2])


def test_group_scored_by_two_models_is_a_failure() -> None:
    results = [result("0/0", 0.0), result("1/0", 0.0)]
    failure = scored_group(scored_batches(results, ["0", "1"]))
    assert isinstance(failure, ScoringFailure)
    assert failure.code == trajectory_pb2.FAILURE_CODE_SCORE_FAILED
    assert "two models" in failure.detail
    group = scored_group(scored_batches(results, ["0", "0"]))
    assert isinstance(group, trajectory_pb2.Group)
    assert encode_trajectory(trajectory_pb2.Trajectory(group=group))


class CrashingPolicy(NextFlowPolicy):
    """A policy with a defect that one prompt brings out."""

    def prefill(self, prompt: str, guided: bool) -> NextFlowState:
        if "CRASH" in prompt:
            raise RuntimeError("a defect")
        if "DEVICE" in prompt:
            raise torch.AcceleratorError("an illegal access")
        return super().prefill(prompt, guided)


@pytest.fixture
async def parts(redis_client: redis.Redis, run_id: str, reward: RunningReward, tmp_path: Path) -> AsyncIterator[Parts]:
    base = build_random()
    base.save(tmp_path)
    policy, thread = CrashingPolicy(base.config, base.tokenizer, base.module), ModelThread(1)
    queue = RunQueue(redis_client, run_id, "worker", max_deliveries=2)
    async with RewardClient(reward.target, TIMEOUT_S) as client:
        yield Parts(
            policy,
            Weights(policy, tmp_path / "policy.safetensors", tmp_path / "cache"),
            thread,
            BatchScorer({"bright": client}, 2),
            queue,
            Metrics(),
        )
    thread.close()


def submit(parts: Parts, run_id: str, prompts: Sequence[str]) -> None:
    parts.queue.submit([make_job(run_id, job_id=prompt, prompt=prompt, rewards=["bright"]) for prompt in prompts])


async def test_defect_met_on_one_job_ends_as_a_dead_letter_and_spares_the_others(
    parts: Parts, redis_client: redis.Redis, run_id: str
) -> None:
    submit(parts, run_id, ["CRASH", "sound"])
    stop, trainer = asyncio.Event(), RunQueue(redis_client, run_id, "trainer")
    working = asyncio.create_task(Worker(parts, WORK, stop).run())
    received: list[Delivery[trajectory_pb2.Trajectory]] = []
    while len(received) < 2 and not working.done():
        received += await asyncio.to_thread(trainer.receive, 2, 200)
    stop.set()
    await working
    outcomes = {job_of(delivery.message).job_id: delivery.message for delivery in received}
    assert outcomes["CRASH"].failure.code == trajectory_pb2.FAILURE_CODE_DEAD_LETTER
    assert "delivered 2 times" in outcomes["CRASH"].failure.detail
    assert len(outcomes["sound"].group.candidates) == 2


async def test_lost_device_ends_the_worker_and_leaves_its_jobs_to_others(
    parts: Parts, redis_client: redis.Redis, run_id: str
) -> None:
    submit(parts, run_id, ["DEVICE"])
    with pytest.raises(ExceptionGroup) as raised:
        await Worker(parts, WORK, asyncio.Event()).run()
    assert raised.group_contains(torch.AcceleratorError)
    assert RunQueue(redis_client, run_id, "trainer").receive(1, 0) == []
    left = RunQueue(redis_client, run_id, "worker-2").take_job(0, 0)
    assert left is not None and left.message.job_id == "DEVICE"
