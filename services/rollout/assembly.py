"""One Group message out of what generation and scoring gave."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from varl.policy.base import Policy
from varl.services.rollout.generation import Place, TokensStep
from varl.services.rollout.scoring import Failure, ScoredBatch, ScoredImage, enter_scores
from varl.trajectories.codec import continuations_of
from varl.v1 import reward_pb2, rollout_pb2, trajectory_pb2


@dataclass
class Drawn:
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
    job: rollout_pb2.RolloutJob, policy: Policy, drawn: Drawn, batches: Sequence[ScoredBatch], worker: str, timings: Timings
) -> trajectory_pb2.Group | Failure:
    """Assemble the group; a Failure where two models answered for the same reward, whose values must not be compared."""
    absent = [name for name in job.optional_rewards if not _enter_optional(name, batches)]
    models: dict[str, reward_pb2.Model] = {}
    for name, model in ((name, model) for batch in batches for name, model in batch.models.items()):
        if models.setdefault(name, model) != model:
            detail = f"reward {name!r} answered with two models: {models[name].revision!r} and {model.revision!r}"
            return Failure(trajectory_pb2.FAILURE_CODE_SCORE_FAILED, detail)
    images = {place: image for batch in batches for place, image in batch.images.items()}
    return trajectory_pb2.Group(
        job=job,
        grids=[trajectory_pb2.Grid(height=height, width=width) for height, width in policy.grids],
        prefix_tokens=drawn.prefix,
        candidates=[_candidate(job, index, drawn, images) for index in range(job.group_size)],
        models=models,
        absent_rewards=absent,
        worker=worker,
        generate_seconds=timings.generate,
        score_seconds=timings.score,
        image_size=policy.image_size[0],
    )


def _enter_optional(name: str, batches: Sequence[ScoredBatch]) -> bool:
    """Give all images of a group an optional reward, or none where one has none: parts of a group could not be compared."""
    answers = [batch.optional.get(name) for batch in batches]
    found = [answer for answer in answers if answer is not None]
    if len(found) < len(answers) or any(answer.model != found[0].model for answer in found):
        return False
    for batch, answer in zip(batches, found, strict=True):
        enter_scores(batch, name, answer)
    return True


def _candidate(job: rollout_pb2.RolloutJob, index: int, drawn: Drawn, images: dict[Place, ScoredImage]) -> trajectory_pb2.Candidate:
    scored = [_continuation(images[index, k], job.want_images and k == 0) for k in range(continuations_of(job))]
    return trajectory_pb2.Candidate(tokens=drawn.tokens[index], log_probs=drawn.log_probs[index], continuations=scored)


def _continuation(image: ScoredImage, wanted: bool) -> trajectory_pb2.Continuation:
    return trajectory_pb2.Continuation(rewards=image.rewards, words=image.words, image=image.png if wanted else b"")
