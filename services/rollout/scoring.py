"""Scores of generated images from every reward that a job requires, over gRPC; a failure is a value, never a number."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from google.protobuf.struct_pb2 import Struct

from varl.services.rollout.generation import ImagesStep, Place
from varl.services.rollout.images import encode_png
from varl.services.serving.grpc.client import RewardRejected, RewardUnavailable
from varl.v1 import reward_pb2, rollout_pb2, trajectory_pb2

_log = logging.getLogger("varl.rollout")


class RewardSource(Protocol):
    """What is asked of a reward client (varl.services.serving.grpc.client.RewardClient)."""

    async def score(self, samples: Sequence[reward_pb2.Sample], formula: str = "") -> reward_pb2.ScoreResponse:
        """Score a batch; raises RewardUnavailable where the service could not be reached in time."""


@dataclass(frozen=True)
class Failure:
    """Why a group has no rewards; the detail names the reward and the sample."""

    code: trajectory_pb2.FailureCode
    detail: str


@dataclass
class ScoredImage:
    """One image's rewards by name, the words that were read with their boxes, and the file that was sent."""

    png: bytes
    rewards: dict[str, float] = field(default_factory=dict)
    words: list[reward_pb2.Word] = field(default_factory=list)


@dataclass(frozen=True)
class ScoredBatch:
    """The images of one step, and which model answered for each reward; optional: sound answers of rewards that may be absent, by name."""

    images: dict[Place, ScoredImage]
    models: dict[str, reward_pb2.Model]
    optional: dict[str, reward_pb2.ScoreResponse] = field(default_factory=dict)


class Scorer:
    """Sends images to the rewards by name, a bounded number of batches at a time over all jobs."""

    def __init__(self, rewards: Mapping[str, RewardSource], batches_in_flight: int) -> None:
        self._rewards = rewards
        self._room = asyncio.Semaphore(batches_in_flight)

    def lacking(self, names: Sequence[str]) -> list[str]:
        """Return the rewards of ``names`` that this worker has no service for."""
        return [name for name in names if name not in self._rewards]

    async def start(self, job: rollout_pb2.RolloutJob, step: ImagesStep) -> asyncio.Task[ScoredBatch | Failure]:
        """Begin to score a step's images once there is room, which holds generation back when the rewards are slower."""
        await self._room.acquire()
        task = asyncio.create_task(self._score(job, step))
        task.add_done_callback(lambda _: self._room.release())
        return task

    async def _score(self, job: rollout_pb2.RolloutJob, step: ImagesStep) -> ScoredBatch | Failure:
        files = await asyncio.to_thread(lambda: [encode_png(pixels) for pixels in step.pixels])
        samples = [_sample(job, place, png) for place, png in zip(step.places, files, strict=True)]
        asked = [*job.rewards, *(name for name in job.optional_rewards if name in self._rewards)]
        answers = dict(zip(asked, await asyncio.gather(*(self._ask(name, samples) for name in asked)), strict=True))
        batch = ScoredBatch({place: ScoredImage(png) for place, png in zip(step.places, files, strict=True)}, {})
        for name in job.rewards:
            answer = answers.pop(name)
            failure = answer if isinstance(answer, Failure) else add_scores(batch, name, answer)
            if failure is not None:
                return failure
        for name, answer in answers.items():
            problem = answer if isinstance(answer, Failure) else find_problem(batch, name, answer)
            if isinstance(answer, Failure) or problem is not None:
                _log.warning("job %s goes on without an optional reward: %s", job.job_id, problem.detail if problem else "")
            else:
                batch.optional[name] = answer
        return batch

    async def _ask(self, name: str, samples: Sequence[reward_pb2.Sample]) -> reward_pb2.ScoreResponse | Failure:
        try:
            return await self._rewards[name].score(samples)
        except RewardUnavailable as error:
            return Failure(trajectory_pb2.FAILURE_CODE_REWARD_UNAVAILABLE, f"reward {name!r}: {error}")
        except RewardRejected as error:
            return Failure(trajectory_pb2.FAILURE_CODE_SCORE_FAILED, f"reward {name!r}: {error}")


def find_problem(batch: ScoredBatch, name: str, answer: reward_pb2.ScoreResponse) -> Failure | None:
    """What is wrong with one reward's answer to a batch: an error, a missing sample, a value that is not finite; or None."""
    results = {result.id: result for result in answer.results}
    for place in batch.images:
        problem = _problem(results.get(_sample_id(place)))
        if problem is not None:
            return Failure(trajectory_pb2.FAILURE_CODE_SCORE_FAILED, f"reward {name!r}, sample {_sample_id(place)}: {problem}")
    return None


def add_scores(batch: ScoredBatch, name: str, answer: reward_pb2.ScoreResponse) -> Failure | None:
    """Enter one reward's answer into a batch, all of it, or say what is wrong with it."""
    failure = find_problem(batch, name, answer)
    if failure is None:
        enter_scores(batch, name, answer)
    return failure


def enter_scores(batch: ScoredBatch, name: str, answer: reward_pb2.ScoreResponse) -> None:
    """Enter one reward's answer, in which ``find_problem`` has found none."""
    results = {result.id: result for result in answer.results}
    for place, image in batch.images.items():
        result = results[_sample_id(place)]
        image.rewards[name] = result.score.value
        image.words.extend(result.score.words)
    batch.models[name] = answer.model


def _problem(result: reward_pb2.Result | None) -> str | None:
    if result is None:
        return "no result"
    if result.WhichOneof("outcome") != "score":
        return f"{reward_pb2.ErrorCode.Name(result.error.code)}: {result.error.detail}"
    return None if math.isfinite(result.score.value) else f"value is {result.score.value}"


def _sample(job: rollout_pb2.RolloutJob, place: Place, png: bytes) -> reward_pb2.Sample:
    return reward_pb2.Sample(id=_sample_id(place), prompt=job.prompt, image=png, target_words=job.target_words, metadata=_metadata(job))


def _metadata(job: rollout_pb2.RolloutJob) -> Struct | None:
    return job.metadata if job.metadata.fields else None


def _sample_id(place: Place) -> str:
    return f"{place[0]}/{place[1]}"
