"""Messages at the papers' sizes, made of random tokens and encoded by the real codec."""

from __future__ import annotations

from functools import cache

import numpy as np
from varl.v1 import reward_pb2, rollout_pb2, trajectory_pb2

from benchmarks.scale import assumptions as given
from benchmarks.scale.flops import sizes
from benchmarks.scale.stages import FULL, PREFIX, SUFFIX, Task
from policy.base import cells
from trajectories.codec import continuations_of, encode_job, encode_trajectory, optimised_scales

RUN_ID = "paper_ocr"
PROMPT = "a shop front at night, rain on the street, with a neon sign that says 'OPEN ALL NIGHT' above a door marked 'BREAD AND MILK'. " * 3
TARGETS = ("OPEN", "ALL", "NIGHT", "BREAD", "AND", "MILK")
TASKS = {
    "prefix": Task(PREFIX, given.SPLIT_SCALE, given.GROUP, given.CONTINUATIONS),
    "suffix": Task(SUFFIX, given.SPLIT_SCALE, given.GROUP, 1),
    "full": Task(FULL, 0, given.GROUP, 1),
}


def job_of_task(task: Task, index: int = 0, run_id: str = RUN_ID) -> rollout_pb2.RolloutJob:
    """The ``index``-th job of a run, as trainer.jobs would make it at the papers' settings."""
    return rollout_pb2.RolloutJob(
        run_id=run_id,
        job_id=f"train/1200/{index}",
        update=1200,
        group=index,
        prompt=PROMPT,
        target_words=TARGETS,
        stage=task.stage,
        split_scale=task.split,
        group_size=task.group,
        continuations=task.copies,
        seed=2**63 + index,
        weight_version=1200,
        weight_path=f"/runs/{run_id}/weights/policy-1200.safetensors",
        sampling=rollout_pb2.Sampling(temperature=1.0, top_k=2, top_p=0.9, cfg=5.0),
        rewards=("ocr", "hpsv3"),
    )


def trajectory_of(job: rollout_pb2.RolloutJob) -> trajectory_pb2.Trajectory:
    """A group of random codes, log-probs and readings, the same on every call. Both codebooks share one index: a token is one number."""
    grids, rng = given.NEXTFLOW_7B.grids, np.random.default_rng(0)
    counts = cells(grids)
    trained = sum(counts[scale] for scale in optimised_scales(job, len(counts)))
    shared = sum(counts[: job.split_scale]) if job.stage == SUFFIX else 0
    group = trajectory_pb2.Group(
        job=job,
        grids=[trajectory_pb2.Grid(height=height, width=width) for height, width in grids],
        prefix_tokens=_codes(rng, shared),
        candidates=[_candidate(rng, trained, continuations_of(job)) for _ in range(job.group_size)],
        models={name: reward_pb2.Model(engine="torch", name=name, revision="0" * 40) for name in job.rewards},
        worker="rollout-7d9f8b6c5-abcde-1-0a1b2c",
        generate_seconds=rng.random(),
        score_seconds=rng.random(),
        image_size=given.IMAGE_SIDE,
    )
    return trajectory_pb2.Trajectory(group=group)


def _codes(rng: np.random.Generator, count: int) -> list[int]:
    codes: list[int] = rng.integers(0, given.NEXTFLOW_7B.tokenizer.codes, count).tolist()
    return codes


def _candidate(rng: np.random.Generator, tokens: int, images: int) -> trajectory_pb2.Candidate:
    log_probs = -rng.exponential(3.0, tokens).astype(np.float32)
    return trajectory_pb2.Candidate(tokens=_codes(rng, tokens), log_probs=log_probs, continuations=[_scored(rng) for _ in range(images)])


def _scored(rng: np.random.Generator) -> trajectory_pb2.Continuation:
    words = [_word(rng) for _ in range(given.WORDS_AN_IMAGE)]
    return trajectory_pb2.Continuation(rewards={"ocr": rng.random(), "hpsv3": rng.random()}, words=words)


def _word(rng: np.random.Generator) -> reward_pb2.Word:
    return reward_pb2.Word(text="MILK", confidence=rng.random(), polygon=rng.random(8) * given.IMAGE_SIDE)


@cache
def job_bytes(kind: str) -> int:
    """Bytes of a job of a kind in TASKS."""
    return len(encode_job(job_of_task(TASKS[kind])))


@cache
def trajectory_bytes(kind: str) -> int:
    """Bytes of a group of a kind in TASKS."""
    return len(encode_trajectory(trajectory_of(job_of_task(TASKS[kind]))))


def weight_bytes(number: int = given.ACTIVATIONS) -> int:
    """Bytes of one version of the policy's weights, of ``number`` bytes each."""
    return number * sizes(given.NEXTFLOW_7B).parameters


def raw_image_bytes() -> int:
    """Bytes of one image's pixels; its PNG is never much larger, whatever it shows."""
    return 3 * given.IMAGE_SIDE**2


def images_per_update(kind: str) -> int:
    """Images decoded and scored for one update."""
    return given.PROMPTS * TASKS[kind].images
