"""Rollout against the real OCR service."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import redis

from tests.support.ocr_builders import OCRProcess, grpc_sample, render
from tests.support.rollout_helpers import rollout_process, run_jobs
from tests.support.trajectory_builders import make_job
from varl.policy.nextflow import build_random
from varl.services.rollout.generation import ImagesStep
from varl.services.rollout.scoring import BatchScorer, ScoredBatch, ScoringFailure
from varl.services.serving.grpc.client import RewardClient
from varl.trajectories.queue import RunQueue
from varl.v1 import rollout_pb2, trajectory_pb2


async def test_words_and_boxes_of_rendered_images_reach_the_group(ocr_service: OCRProcess) -> None:
    pixels = np.stack([render(["BREAD"]), render(["WATER"])])
    async with RewardClient(ocr_service.grpc, 60) as client:
        scorer = BatchScorer({"ocr": client}, 1)
        batch = await (await scorer.start(make_job(target_words=["BREAD"]), ImagesStep([(0, 0), (0, 1)], pixels)))
        no_target = await (
            await scorer.start(make_job(target_words=[], prompt="a sign"), ImagesStep([(0, 0)], pixels[:1]))
        )
    assert isinstance(batch, ScoredBatch)
    right, wrong = (result.score for result in batch.required["ocr"].results)
    assert [word.text.upper() for word in right.words] == ["BREAD"]
    assert right.value > 1 > wrong.value
    assert len(right.words[0].polygon) >= 6 and all(-8 <= xy <= 72 for xy in right.words[0].polygon)
    assert isinstance(no_target, ScoringFailure)
    assert no_target.code == trajectory_pb2.FAILURE_CODE_SCORE_FAILED
    assert "NO_TARGET" in no_target.detail


async def test_worker_publishes_what_the_ocr_service_says(
    redis_server: str, redis_client: redis.Redis, run_id: str, tmp_path: Path, ocr_service: OCRProcess
) -> None:
    build_random().save(tmp_path)
    queue = RunQueue(redis_client, run_id, "trainer")
    prefix = make_job(
        run_id, job_id="prefix", stage=rollout_pb2.STAGE_PREFIX, split_scale=3, continuations=2, want_images=True
    )
    full = make_job(run_id, job_id="full", want_images=True)
    with rollout_process(redis_server, run_id, tmp_path, {"ocr": ocr_service.grpc}):
        groups = [trajectory.group for trajectory in run_jobs(queue, [prefix, full])]
    firsts = [candidate.continuations[0] for group in groups for candidate in group.candidates]
    async with RewardClient(ocr_service.grpc, 60) as client:
        answer = await client.score(
            [grpc_sample(str(i), full.prompt, first.image, ["BREAD"]) for i, first in enumerate(firsts)]
        )
    assert [first.rewards["ocr"] for first in firsts] == [result.score.value for result in answer.results]
    for first, result in zip(firsts, answer.results, strict=True):
        assert [(word.text, list(word.polygon)) for word in first.regions] == [
            (word.text, list(word.polygon)) for word in result.score.words
        ]
    assert all(group.models["ocr"] == answer.model for group in groups)
