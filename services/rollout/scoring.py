"""Scores of generated images from every reward that a job requires, over gRPC; a failure is a value, never a number."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from google.protobuf.struct_pb2 import Struct

from varl.services.rollout.generation import ImagesStep, Place
from varl.services.rollout.images import encode_png
from varl.services.serving.grpc.client import RewardRejected, RewardUnavailable
from varl.trajectories.problems import MAX_REGIONS, polygon_problem
from varl.v1 import reward_pb2, rollout_pb2, trajectory_pb2

_log = logging.getLogger("varl.rollout")


class RewardChannel(Protocol):
    """What is asked of a reward client (varl.services.serving.grpc.client.RewardClient)."""

    async def score(self, samples: Sequence[reward_pb2.Sample], formula: str = "") -> reward_pb2.ScoreResponse:
        """Score a batch; raises RewardUnavailable where the service could not be reached in time."""


@dataclass(frozen=True)
class ScoringFailure:
    """Why a group has no rewards; the detail names the reward and the sample."""

    code: trajectory_pb2.FailureCode
    detail: str


@dataclass(frozen=True)
class ScoredBatch:
    """The images of one step, as the files that were sent, and every reward's sound answer to them by name."""

    files: dict[Place, bytes]
    required: dict[str, reward_pb2.ScoreResponse]
    optional: dict[str, reward_pb2.ScoreResponse]  # those of rewards that failed are missing


class BatchScorer:
    """Sends images to the rewards by name, a bounded number of batches at a time over all jobs."""

    def __init__(self, rewards: Mapping[str, RewardChannel], batches_in_flight: int) -> None:
        self._rewards = rewards
        self._room = asyncio.Semaphore(batches_in_flight)

    def lacking(self, names: Sequence[str]) -> list[str]:
        """Return the rewards of ``names`` that this worker has no service for."""
        return [name for name in names if name not in self._rewards]

    async def start(self, job: rollout_pb2.RolloutJob, step: ImagesStep) -> asyncio.Task[ScoredBatch | ScoringFailure]:
        """Start scoring a step's images once there is room.

        Waiting for room holds generation back when the rewards are slower.
        """
        await self._room.acquire()
        task = asyncio.create_task(self._score(job, step))
        task.add_done_callback(lambda _: self._room.release())
        return task

    async def _score(self, job: rollout_pb2.RolloutJob, step: ImagesStep) -> ScoredBatch | ScoringFailure:
        files = await asyncio.to_thread(lambda: [encode_png(pixels) for pixels in step.pixels])
        samples = [_sample(job, place, png) for place, png in zip(step.places, files, strict=True)]
        asked = [*job.rewards, *(name for name in job.optional_rewards if name in self._rewards)]
        answers = dict(zip(asked, await asyncio.gather(*(self._ask(name, samples) for name in asked)), strict=True))
        batch = ScoredBatch(dict(zip(step.places, files, strict=True)), {}, {})
        for name, answer in answers.items():
            problem = answer if isinstance(answer, ScoringFailure) else find_problem(step.places, name, answer)
            if isinstance(answer, reward_pb2.ScoreResponse) and problem is None:
                (batch.required if name in job.rewards else batch.optional)[name] = answer
            elif problem is not None and name in job.rewards:
                return problem
            elif problem is not None:
                _log.warning("job %s goes on without an optional reward: %s", job.job_id, problem.detail)
        return batch

    async def _ask(self, name: str, samples: Sequence[reward_pb2.Sample]) -> reward_pb2.ScoreResponse | ScoringFailure:
        try:
            return await self._rewards[name].score(samples)
        except RewardUnavailable as error:
            return ScoringFailure(trajectory_pb2.FAILURE_CODE_REWARD_UNAVAILABLE, f"reward {name!r}: {error}")
        except RewardRejected as error:
            return ScoringFailure(trajectory_pb2.FAILURE_CODE_SCORE_FAILED, f"reward {name!r}: {error}")


def find_problem(places: Sequence[Place], name: str, answer: reward_pb2.ScoreResponse) -> ScoringFailure | None:
    """Return what is wrong with one reward's answer to a batch, or None.

    Wrong are an error, a missing sample, and a useless value or polygon.
    """
    results = {result.id: result for result in answer.results}
    for place in places:
        problem = _problem(results.get(sample_id(place)))
        if problem is not None:
            return ScoringFailure(
                trajectory_pb2.FAILURE_CODE_SCORE_FAILED, f"reward {name!r}, sample {sample_id(place)}: {problem}"
            )
    return None


def _problem(result: reward_pb2.Result | None) -> str | None:
    if result is None:
        return "no result"
    if result.WhichOneof("outcome") != "score":
        return f"{reward_pb2.ErrorCode.Name(result.error.code)}: {result.error.detail}"
    if not math.isfinite(result.score.value):
        return f"value is {result.score.value}"
    polygons = [word.polygon for word in result.score.words if word.polygon] + [
        region.polygon for region in result.score.regions
    ]
    if len(polygons) > MAX_REGIONS:
        return f"words and regions must be at most {MAX_REGIONS}, got {len(polygons)}"
    return next((problem for polygon in polygons if (problem := polygon_problem(polygon)) is not None), None)


def _sample(job: rollout_pb2.RolloutJob, place: Place, png: bytes) -> reward_pb2.Sample:
    return reward_pb2.Sample(
        id=sample_id(place), prompt=job.prompt, image=png, target_words=job.target_words, metadata=_metadata(job)
    )


def _metadata(job: rollout_pb2.RolloutJob) -> Struct | None:
    return job.metadata if job.metadata.fields else None


def sample_id(place: Place) -> str:
    """Name of an image in a request: its candidate and its continuation."""
    return f"{place[0]}/{place[1]}"
