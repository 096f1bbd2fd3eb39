"""Jobs of every stage for a small random model, as tests of the rollout worker send them."""

from __future__ import annotations

from tests.support.trajectory_builders import make_job
from varl.v1 import rollout_pb2

RUN = "rollout-test"
FULL, PREFIX, SUFFIX = rollout_pb2.STAGE_FULL, rollout_pb2.STAGE_PREFIX, rollout_pb2.STAGE_SUFFIX
SPLIT, CONTINUATIONS = 3, 2


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
