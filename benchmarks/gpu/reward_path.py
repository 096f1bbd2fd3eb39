"""The reward path: groups sampled, decoded to PNG, scored by HPSv3 while the next group is sampled.

OCR is not part of it: its engines are not on the bare machine that this runs on.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence

from benchmarks.gpu.hpsv3 import build
from benchmarks.gpu.models import CONTINUATIONS, GROUP, PROMPT, infinity
from benchmarks.gpu.service import service_of
from benchmarks.gpu.setting import Figures, Setting
from varl.services.rollout.generation import ImagesStep, Limits, generate
from varl.services.rollout.model import ModelThread
from varl.services.rollout.scoring import BatchScorer, ScoredBatch, ScoringFailure
from varl.services.serving.scoring import RawSample, SampleScore, ScoreBatch
from varl.services.serving.service import ScoringService
from varl.v1 import reward_pb2, rollout_pb2

JOBS = 3
Task = asyncio.Task[ScoredBatch | ScoringFailure]


class InProcess:
    """A reward channel to a service in this process: all of the work but the network's."""

    def __init__(self, service: ScoringService) -> None:
        self._service = service

    async def score(self, samples: Sequence[reward_pb2.Sample], formula: str = "") -> reward_pb2.ScoreResponse:
        """Scores of PNG files."""
        raw = tuple(RawSample(one.id, one.prompt, one.image) for one in samples)
        outcomes = (await self._service.score(ScoreBatch(raw))).outcomes
        return reward_pb2.ScoreResponse(
            results=[
                reward_pb2.Result(id=one.id, score=reward_pb2.Score(value=found.value))
                for one, found in zip(raw, outcomes, strict=True)
                if isinstance(found, SampleScore)
            ]
        )


def measure(setting: Setting) -> Iterator[Figures]:
    """Seconds of some groups, and the share of them in which the sampler's thread had nothing to do."""
    policy = infinity(setting)
    service = service_of(build(setting), 16 if setting.full else 2)
    group, split = (GROUP, 7) if setting.full else (2, 2)
    sampling = rollout_pb2.Sampling(temperature=1.0, top_p=1.0)
    jobs = [
        rollout_pb2.RolloutJob(
            job_id=str(index), prompt=PROMPT, seed=index, stage=rollout_pb2.STAGE_PREFIX, split_scale=split,
            group_size=group, continuations=CONTINUATIONS, sampling=sampling, rewards=["hpsv3"],
        )
        for index in range(JOBS)
    ]  # fmt: skip

    async def run() -> tuple[float, float, int]:
        await service.start()
        thread, scorer = ModelThread(1), BatchScorer({"hpsv3": InProcess(service)}, 8)
        began, working, tasks = time.perf_counter(), 0.0, list[Task]()
        for job in jobs:
            steps = generate(policy, job, Limits(64, 8))
            while True:
                start = time.perf_counter()
                step = await thread.call(next, steps, None)
                working += time.perf_counter() - start
                if step is None:
                    break
                if isinstance(step, ImagesStep):
                    tasks.append(await scorer.start(job, step))
        found = await asyncio.gather(*tasks)
        seconds = time.perf_counter() - began
        thread.close()
        await service.close()
        return seconds, working, sum(isinstance(one, ScoringFailure) for one in found)

    seconds, working, failed = asyncio.run(run())
    images = JOBS * group * CONTINUATIONS
    yield {"images_s": images / seconds, "sampler_waits_share": 1 - working / seconds, "failed_batches": failed}
    yield {"peak_gib": setting.peak_gib(), "note": "HPSv3 alone, in one process: OCR's engines are not on this machine"}
