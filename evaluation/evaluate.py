"""What the rewards measure on held-out prompts, through the same rollout and reward services that training uses.

The images of prompt i are drawn from a seed of (evaluation seed, i) alone, so two evaluations of the same prompts
differ in the weights and in nothing else, and their difference may be taken prompt by prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from varl.evaluation.measures.base import images
from varl.evaluation.measures.chosen import measures_of, needs_words
from varl.evaluation.measures.reward import reward_of
from varl.evaluation.measures.words import read_words
from varl.evaluation.results import Evaluation, FailedPrompt, Picture, PromptResult
from varl.policy.base import Layout, SamplingParams
from varl.services.ocr.targets import resolve_targets
from varl.trajectories.collect import Patience, collect, failure_name
from varl.trajectories.job_checks import SCHEMA
from varl.trajectories.prompts import PromptSpec
from varl.trajectories.queue import RunQueue
from varl.trajectories.sampling import sampling_message
from varl.v1 import rollout_pb2, trajectory_pb2


@dataclass(frozen=True)
class EvalSettings:
    """What is drawn and how it is scored; equal settings make two evaluations comparable."""

    run_id: str
    layout: Layout  # of the evaluated policy; a group of any other model is a failure
    seed: int
    group_size: int  # images of each prompt
    sampling: SamplingParams
    rewards: Mapping[str, float]  # name -> weight in the reported reward
    patience: Patience
    pictures: int = 0  # prompts, from the first, whose first image is kept with what was read


class EvaluationError(RuntimeError):
    """No group could be scored, so there is nothing to report; the message holds the first failure."""


def evaluate(
    queue: RunQueue,
    prompts: Sequence[PromptSpec],
    settings: EvalSettings,
    weight_path: str,
    weight_version: int,
    tag: str,
    progress: Callable[[int, int], None],
) -> Evaluation:
    """Draw and score ``settings.group_size`` images of every prompt with the weights of ``weight_path``.

    progress is told (groups settled, groups asked). A group that fails to its last attempt is listed under ``failed``.

    Raises:
        EvaluationError: every group failed.
        varl.trajectories.collect.RolloutTimeoutError: nothing arrived for ``settings.patience.timeout_s``.
        ValueError: OCR is one of the rewards and a prompt has no target word, so that what was read can be compared
            with nothing.
    """
    jobs = evaluation_jobs(prompts, settings, weight_path, weight_version, tag)
    collected = collect(queue, jobs, settings.layout, settings.patience, progress)
    queue.acknowledge(collected.entry_ids)  # an evaluation is in no checkpoint: after a crash it is done again
    if not collected.groups:
        first = collected.dropped[0]
        raise EvaluationError(
            f"evaluation {tag}: all {len(jobs)} groups failed, "
            f"the first with {failure_name(first.code)}: {first.detail}"
        )
    return Evaluation(
        tag=tag,
        weight_version=weight_version,
        seed=settings.seed,
        group_size=settings.group_size,
        models={name: f"{m.engine} {m.name} ({m.revision})" for name, m in sorted(collected.groups[0].models.items())},
        prompts=tuple(prompt_result(group, settings.rewards) for group in collected.groups),
        failed=tuple(_failed(failure) for failure in sorted(collected.dropped, key=lambda failure: failure.job.group)),
    )


def evaluation_jobs(
    prompts: Sequence[PromptSpec], settings: EvalSettings, weight_path: str, weight_version: int, tag: str
) -> list[rollout_pb2.RolloutJob]:
    """One job for each prompt; only the weights and the job id differ between two evaluations with equal settings."""
    return [
        rollout_pb2.RolloutJob(
            run_id=settings.run_id,
            job_id=f"eval-{tag}/{weight_version}/{index}",
            update=weight_version,
            group=index,
            prompt=spec.prompt,
            target_words=_targets(spec, needs_words(settings.rewards)),
            metadata=spec.metadata_message(),
            stage=rollout_pb2.STAGE_FULL,
            group_size=settings.group_size,
            continuations=1,
            seed=evaluation_seed(settings.seed, index),
            weight_version=weight_version,
            weight_path=weight_path if "://" in weight_path else str(Path(weight_path).resolve()),
            sampling=sampling_message(settings.sampling),
            rewards=list(settings.rewards),
            schema=SCHEMA,
            log_probs=rollout_pb2.LOG_PROBS_PLAIN,
            want_images=index < settings.pictures,
            want_appearance=True,
        )
        for index, spec in enumerate(prompts)
    ]


def evaluation_seed(seed: int, index: int) -> int:
    """A 64-bit seed of prompt ``index``, whatever the run, the update and the weights."""
    return int(np.random.SeedSequence([seed, index]).generate_state(1, np.uint64)[0])


def prompt_result(group: trajectory_pb2.Group, weights: Mapping[str, float]) -> PromptResult:
    """Sums over the images of a valid group; the picture is the first image, where the job asked for it."""
    scored = images(group)
    return PromptResult(
        index=group.job.group,
        prompt=group.job.prompt,
        target_words=tuple(group.job.target_words),
        images=len(scored),
        shares={measure.name: measure.share(group) for measure in measures_of(weights)},
        picture=_picture(scored[0], reward_of(scored[0], weights)) if scored[0].image else None,
    )


def _targets(spec: PromptSpec, needed: bool) -> tuple[str, ...]:
    targets = resolve_targets(spec.prompt, spec.target_words)
    if needed and not targets:
        raise ValueError(f"prompt {spec.prompt!r} has no target word")
    return targets


def _picture(image: trajectory_pb2.Continuation, reward: float) -> Picture:
    return Picture(image=image.image, words=tuple(read_words(image)), reward=reward)


def _failed(failure: trajectory_pb2.GroupFailure) -> FailedPrompt:
    return FailedPrompt(
        index=failure.job.group, prompt=failure.job.prompt, code=failure_name(failure.code), detail=failure.detail
    )
