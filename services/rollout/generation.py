"""From a job to tokens and images: the three stages of docs/method.md, as steps that one thread works off."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from varl.policy.base import Policy, Sampled, SamplingParams
from varl.services.rollout.seeds import candidate_seed
from varl.trajectories.job_checks import continuations_of
from varl.trajectories.sampling import log_probs_of, sampling_params
from varl.v1 import rollout_pb2

Place = tuple[int, int]  # (candidate, continuation)


@dataclass(frozen=True)
class Limits:
    """Sequences sampled together (memory of the KV cache), images decoded and sent together, characters of a prompt.

    guided: sequences sampled together with guidance, which takes a second cache; None: as many as without. fixed: so
    many always, the last batch being filled up with sequences that are thrown away.
    """

    sequences: int
    decode: int
    prompt_chars: int = 4096
    guided: int | None = None
    fixed: bool = False

    def together(self, params: SamplingParams) -> int:
        """Sequences sampled together with these parameters."""
        return self.guided if params.cfg > 0 and self.guided is not None else self.sequences

    def batches(self, count: int, params: SamplingParams, copies: int = 1) -> Iterator[Batch]:
        """Candidates 0 … count - 1, each continued ``copies`` times, as batches that are sampled together."""
        size = max(1, self.together(params) // copies)
        return (Batch(part, size if self.fixed else len(part)) for part in _slices(count, size))


@dataclass(frozen=True)
class Batch:
    """Candidates that are sampled together, and how many sequences that is with those that are thrown away."""

    candidates: range
    size: int

    @property
    def indices(self) -> range:
        """Of all sequences: those of the candidates come first."""
        return range(self.candidates.start, self.candidates.start + self.size)

    def kept(self, sampled: Sampled, copies: int = 1) -> Sampled:
        """The candidates' own."""
        count = len(self.candidates) * copies
        return Sampled(sampled.tokens[:count], sampled.log_probs[:count])


@dataclass(frozen=True)
class TokensStep:
    """Tokens and log-probs of the next candidates, in order.

    ``prefix``: the tokens that all candidates share (STAGE_SUFFIX).
    """

    prefix: list[int]
    tokens: list[list[int]]
    log_probs: list[list[float]]


@dataclass(frozen=True)
class ImagesStep:
    """Images uint8 [B, H, W, 3] and which candidate and continuation each one belongs to."""

    places: list[Place]
    pixels: npt.NDArray[np.uint8]


@dataclass(frozen=True)
class _Chunk:
    first: int  # index of the first candidate
    prefix: list[int]
    trained: Sampled  # a row per candidate: the scales that the stage optimises
    whole: Tensor  # int64 [candidates * K, all tokens], a candidate's continuations next to each other


Step = TokensStep | ImagesStep


def generate(policy: Policy, job: rollout_pb2.RolloutJob, limits: Limits) -> Iterator[Step]:
    """Draw and decode a job's group; every step is one piece of model work.

    Tokens depend on the weights, the prompt, the sampling and ``job.seed`` alone (limits change them no more than a
    batch size changes rounding). Raises ValueError on a job that this policy cannot do.
    """
    params = sampling_params(job.sampling)
    check_prompt(job.prompt, limits)
    if job.stage != rollout_pb2.STAGE_FULL and not 1 <= job.split_scale < len(policy.grids):
        raise ValueError(f"split_scale must be in 1..{len(policy.grids) - 1} for this model, got {job.split_scale}")
    copies = continuations_of(job)
    for chunk in _STAGES[job.stage](policy, job, params, limits.batches(job.group_size, params, copies)):
        yield TokensStep(chunk.prefix, chunk.trained.tokens.tolist(), chunk.trained.log_probs.tolist())
        places = [(chunk.first + row // copies, row % copies) for row in range(len(chunk.whole))]
        yield from decode(policy, chunk.whole, places, limits.decode)


def generate_images(
    policy: Policy, prompt: str, seed: int, count: int, params: SamplingParams, limits: Limits
) -> Iterator[ImagesStep]:
    """Draw and decode ``count`` images of one prompt. Raises ValueError on a prompt that this policy cannot read."""
    check_prompt(prompt, limits)
    state = policy.prefill(prompt, guided=params.cfg > 0)
    for batch in limits.batches(count, params):
        _, sampled = policy.sample(state, len(policy.grids), [candidate_seed(seed, i) for i in batch.indices], params)
        yield from decode(policy, batch.kept(sampled).tokens, [(i, 0) for i in batch.candidates], limits.decode)


def check_prompt(prompt: str, limits: Limits) -> None:
    """Raises ValueError where the prompt is empty or too long."""
    if not 1 <= len(prompt) <= limits.prompt_chars:
        raise ValueError(f"prompt must have 1..{limits.prompt_chars} characters, got {len(prompt)}")


def decode(policy: Policy, whole: Tensor, places: Sequence[Place], batch: int) -> Iterator[ImagesStep]:
    """Decode whole sequences, ``batch`` at a time, so that the first images can be scored while others are decoded."""
    for rows in _slices(len(places), batch):
        yield ImagesStep(list(places[rows.start : rows.stop]), policy.decode(whole[rows.start : rows.stop]))


def _full(
    policy: Policy, job: rollout_pb2.RolloutJob, params: SamplingParams, batches: Iterator[Batch]
) -> Iterator[_Chunk]:
    state = policy.prefill(job.prompt, guided=params.cfg > 0)
    for batch in batches:
        seeds = [candidate_seed(job.seed, i) for i in batch.indices]
        _, sampled = policy.sample(state, len(policy.grids), seeds, params, log_probs_of(job))
        kept = batch.kept(sampled)
        yield _Chunk(batch.candidates.start, [], kept, kept.tokens)


def _prefix(
    policy: Policy, job: rollout_pb2.RolloutJob, params: SamplingParams, batches: Iterator[Batch]
) -> Iterator[_Chunk]:
    start = policy.prefill(job.prompt, guided=params.cfg > 0)
    copies = job.continuations
    for batch in batches:
        seeds = [candidate_seed(job.seed, i) for i in batch.indices]
        state, sampled = policy.sample(start, job.split_scale, seeds, params, log_probs_of(job))
        seeds = [candidate_seed(job.seed, i, k + 1) for i in batch.indices for k in range(copies)]
        _, rest = policy.sample(state, len(policy.grids), seeds, params)
        prefix, suffix = batch.kept(sampled), batch.kept(rest, copies)
        whole = torch.cat([prefix.tokens.repeat_interleave(copies, 0), suffix.tokens], 1)
        yield _Chunk(batch.candidates.start, [], prefix, whole)


def _suffix(
    policy: Policy, job: rollout_pb2.RolloutJob, params: SamplingParams, batches: Iterator[Batch]
) -> Iterator[_Chunk]:
    start = policy.prefill(job.prompt, guided=params.cfg > 0)
    state, shared = policy.sample(start, job.split_scale, [candidate_seed(job.seed, 0)], params)
    for batch in batches:
        seeds = [candidate_seed(job.seed, i, 1) for i in batch.indices]
        _, sampled = policy.sample(state, len(policy.grids), seeds, params, log_probs_of(job))
        kept = batch.kept(sampled)
        whole = torch.cat([shared.tokens.expand(len(kept.tokens), -1), kept.tokens], 1)
        yield _Chunk(batch.candidates.start, shared.tokens[0].tolist(), kept, whole)


_STAGES = {rollout_pb2.STAGE_FULL: _full, rollout_pb2.STAGE_PREFIX: _prefix, rollout_pb2.STAGE_SUFFIX: _suffix}


def _slices(count: int, size: int) -> Iterator[range]:
    return (range(start, min(start + size, count)) for start in range(0, count, size))
