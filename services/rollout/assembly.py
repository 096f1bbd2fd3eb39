"""One Group message out of what generation and scoring gave."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from varl.policy.base import Policy
from varl.services.rollout.appearance import appearance
from varl.services.rollout.generation import Place, TokensStep
from varl.services.rollout.scoring import ScoredBatch, ScoringFailure, sample_id
from varl.trajectories.job_checks import continuations_of
from varl.trajectories.tokens import pack
from varl.v1 import reward_pb2, rollout_pb2, trajectory_pb2


@dataclass
class SampledGroup:
    """The tokens of a group, gathered step by step."""

    prefix: list[int] = field(default_factory=list)
    tokens: list[list[int]] = field(default_factory=list)
    log_probs: list[list[float]] = field(default_factory=list)

    def add(self, step: TokensStep) -> None:
        """Append the candidates of one step."""
        self.prefix = step.prefix
        self.tokens += step.tokens
        self.log_probs += step.log_probs


@dataclass(frozen=True)
class Timings:
    """Seconds of model work, and from the first image sent to the last score received."""

    generate: float
    score: float


def build_group(
    job: rollout_pb2.RolloutJob,
    policy: Policy,
    sampled: SampledGroup,
    batches: Sequence[ScoredBatch],
    worker: str,
    timings: Timings,
) -> trajectory_pb2.Group | ScoringFailure:
    """Assemble the group.

    A ScoringFailure where two models answered for the same reward, whose values must not be compared.
    """
    answers = {name: [batch.required[name] for batch in batches] for name in job.rewards}
    for name, given in answers.items():
        if not _same_model(given):
            revisions = " and ".join(sorted({repr(answer.model.revision) for answer in given}))
            return ScoringFailure(
                trajectory_pb2.FAILURE_CODE_SCORE_FAILED, f"reward {name!r} answered with two models: {revisions}"
            )
    answers |= {name: found for name in job.optional_rewards if (found := _optional(name, batches))}
    images = _images(batches, answers)
    _attach(job, batches, images)
    bits = policy.bits_per_site
    return trajectory_pb2.Group(
        job=job,
        grids=[trajectory_pb2.Grid(height=height, width=width) for height, width in policy.grids],
        bits_per_site=bits,
        codes=policy.codes or 0,
        prefix_tokens=pack(sampled.prefix, bits),
        candidates=[_candidate(job, index, sampled, images, bits) for index in range(job.group_size)],
        models={name: given[0].model for name, given in answers.items()},
        absent_rewards=[name for name in job.optional_rewards if name not in answers],
        worker=worker,
        generate_seconds=timings.generate,
        score_seconds=timings.score,
        image_height=policy.image_size[0],
        image_width=policy.image_size[1],
    )


def _same_model(answers: Sequence[reward_pb2.ScoreResponse]) -> bool:
    return all(answer.model == answers[0].model for answer in answers)


def _optional(name: str, batches: Sequence[ScoredBatch]) -> list[reward_pb2.ScoreResponse]:
    """An optional reward's answers for all images of a group, or none where one lacks it.

    Parts of a group could not be compared.
    """
    found = [batch.optional[name] for batch in batches if name in batch.optional]
    return found if len(found) == len(batches) and _same_model(found) else []


def _images(
    batches: Sequence[ScoredBatch], answers: Mapping[str, Sequence[reward_pb2.ScoreResponse]]
) -> dict[Place, trajectory_pb2.Continuation]:
    """What the rewards say of every image, by its place."""
    images = dict[Place, trajectory_pb2.Continuation]()
    for index, batch in enumerate(batches):
        scores = {name: {result.id: result.score for result in given[index].results} for name, given in answers.items()}
        for place in batch.files:
            image = trajectory_pb2.Continuation()
            for name, by_id in scores.items():
                _enter_score(image, name, by_id[sample_id(place)])
            images[place] = image
    return images


def _attach(
    job: rollout_pb2.RolloutJob, batches: Sequence[ScoredBatch], images: Mapping[Place, trajectory_pb2.Continuation]
) -> None:
    """Give every candidate's first image its file and its appearance, as far as the job wants them."""
    first = {place: file for batch in batches for place, file in batch.files.items() if place[1] == 0}
    for place, file in first.items():
        if job.want_images:
            images[place].image = file
        if job.want_appearance:
            images[place].appearance.update(appearance(file, images[place].regions))


def _enter_score(image: trajectory_pb2.Continuation, name: str, score: reward_pb2.Score) -> None:
    image.rewards[name] = score.value
    for word in score.words:
        image.regions.add(reward=name, polygon=word.polygon, text=word.text, confidence=word.confidence)
    for region in score.regions:
        image.regions.add(reward=name, polygon=region.polygon, text=region.label, confidence=1)


def _candidate(
    job: rollout_pb2.RolloutJob,
    index: int,
    sampled: SampledGroup,
    images: Mapping[Place, trajectory_pb2.Continuation],
    bits: int,
) -> trajectory_pb2.Candidate:
    return trajectory_pb2.Candidate(
        tokens=pack(sampled.tokens[index], bits),
        log_probs=sampled.log_probs[index],
        continuations=[images[index, k] for k in range(continuations_of(job))],
    )
