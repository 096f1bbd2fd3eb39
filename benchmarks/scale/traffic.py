"""Messages at the papers' sizes, made of random tokens and encoded by the real codec."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np

from benchmarks.scale import assumptions as given
from benchmarks.scale.flops import sizes
from benchmarks.scale.stages import SUFFIX, Task
from varl.policy.base import Layout, cells
from varl.trainer.recipe.config import Recipe, load_recipe
from varl.trainer.rollouts.jobs import PublishedWeights, training_jobs
from varl.trajectories.codec import encode_job, encode_trajectory
from varl.trajectories.job_checks import continuations_of, optimised_scales
from varl.trajectories.prompts import PromptSpec
from varl.trajectories.tokens import pack
from varl.v1 import reward_pb2, rollout_pb2, trajectory_pb2

RECIPE = Path(__file__).resolve().parent.parent.parent / "recipes" / "nextflow_7b_cvtg2k.toml"
REWARDS = ("ocr", "hpsv3")
PROMPT = PromptSpec(
    "a shop front at night, rain on the street, with a neon sign that says 'OPEN ALL NIGHT' "
    "above a door marked 'BREAD AND MILK'. " * 3,
    ("OPEN", "ALL", "NIGHT", "BREAD", "AND", "MILK"),
)
UPDATE = 1196  # a prefix update late in the run; the third after it is a suffix update
KINDS = {"prefix": (UPDATE, "vmr"), "suffix": (UPDATE + given.PREFIX_PER_SUFFIX, "vmr"), "full": (UPDATE, "full")}


@cache
def recipe(stages: str = "vmr") -> Recipe:
    """The paper's recipe; ``stages`` "full" makes it plain GRPO."""
    return load_recipe(RECIPE, ["--objective.stages", stages])


@cache
def _first_job(kind: str) -> rollout_pb2.RolloutJob:
    update, stages = KINDS[kind]
    weights = PublishedWeights(update, Path("/runs/nextflow_7b_cvtg2k/weights/policy-1196.safetensors"))
    (job, *_) = training_jobs(recipe(stages), update, [PROMPT], weights)
    job.rewards[:] = REWARDS
    return job


def job_of_kind(kind: str, index: int = 0, run_id: str = "") -> rollout_pb2.RolloutJob:
    """The ``index``-th job of an update as the trainer makes it, but for both rewards; ``run_id``: of another run."""
    job = rollout_pb2.RolloutJob()
    job.CopyFrom(_first_job(kind))
    job.job_id, job.group, job.run_id = f"train/{job.update}/{index}", index, run_id or job.run_id
    return job


def _task(kind: str) -> Task:
    job = _first_job(kind)
    return Task(job.stage, job.split_scale, job.group_size, continuations_of(job))


CODES = given.NEXTFLOW_7B.tokenizer.codes
BITS = (CODES - 1).bit_length()
LAYOUT = Layout(given.NEXTFLOW_7B.grids, given.IMAGE_SIDE, given.IMAGE_SIDE, BITS, CODES)
TASKS = {kind: _task(kind) for kind in KINDS}


def trajectory_of(job: rollout_pb2.RolloutJob) -> trajectory_pb2.Trajectory:
    """A group of random codes, log-probs and readings, the same on every call.

    Both codebooks share one index: a token is one number.
    """
    grids, rng = given.NEXTFLOW_7B.grids, np.random.default_rng(0)
    counts = cells(grids)
    trained = sum(counts[scale] for scale in optimised_scales(job, len(counts)))
    shared = sum(counts[: job.split_scale]) if job.stage == SUFFIX else 0
    group = trajectory_pb2.Group(
        job=job,
        grids=[trajectory_pb2.Grid(height=height, width=width) for height, width in grids],
        bits_per_site=BITS,
        codes=given.NEXTFLOW_7B.tokenizer.codes,
        prefix_tokens=pack(_codes(rng, shared), BITS),
        candidates=[_candidate(rng, trained, continuations_of(job)) for _ in range(job.group_size)],
        models={name: reward_pb2.Model(engine="torch", name=name, revision="0" * 40) for name in job.rewards},
        worker="rollout-7d9f8b6c5-abcde-1-0a1b2c",
        generate_seconds=rng.random(),
        score_seconds=rng.random(),
        image_height=given.IMAGE_SIDE,
        image_width=given.IMAGE_SIDE,
    )
    return trajectory_pb2.Trajectory(group=group)


def _codes(rng: np.random.Generator, count: int) -> list[int]:
    codes: list[int] = rng.integers(0, given.NEXTFLOW_7B.tokenizer.codes, count).tolist()
    return codes


def _candidate(rng: np.random.Generator, tokens: int, images: int) -> trajectory_pb2.Candidate:
    log_probs = -rng.exponential(3.0, tokens).astype(np.float32)
    return trajectory_pb2.Candidate(
        tokens=pack(_codes(rng, tokens), BITS), log_probs=log_probs, continuations=[_scored(rng) for _ in range(images)]
    )


def _scored(rng: np.random.Generator) -> trajectory_pb2.Continuation:
    words = [_word(rng) for _ in range(given.WORDS_AN_IMAGE)]
    return trajectory_pb2.Continuation(rewards={name: rng.random() for name in REWARDS}, regions=words)


def _word(rng: np.random.Generator) -> trajectory_pb2.LocatedRegion:
    return trajectory_pb2.LocatedRegion(
        reward="ocr", text="MILK", confidence=rng.random(), polygon=rng.random(8) * given.IMAGE_SIDE
    )


@cache
def job_bytes(kind: str) -> int:
    """Bytes of a job of a kind in TASKS."""
    return len(encode_job(job_of_kind(kind)))


@cache
def trajectory_bytes(kind: str) -> int:
    """Bytes of a group of a kind in TASKS."""
    return len(encode_trajectory(trajectory_of(job_of_kind(kind))))


def weight_bytes(number: int = given.ACTIVATIONS) -> int:
    """Bytes of one version of the policy's weights, of ``number`` bytes each."""
    return number * sizes(given.NEXTFLOW_7B).parameters


def raw_image_bytes() -> int:
    """Bytes of one image's pixels; its PNG is never much larger, whatever it shows."""
    return 3 * given.IMAGE_SIDE**2


def images_per_update(kind: str) -> int:
    """Images decoded and scored for one update."""
    return given.PROMPTS * TASKS[kind].images
