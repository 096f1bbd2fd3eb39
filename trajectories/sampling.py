"""Sampling parameters and the kind of log-probabilities, as messages hold them and as a policy takes them."""

from __future__ import annotations

from varl.policy.base import LogProbs, SamplingParams
from varl.v1 import rollout_pb2

KINDS: dict[LogProbs, rollout_pb2.LogProbs] = {
    "plain": rollout_pb2.LOG_PROBS_PLAIN,
    "sampled": rollout_pb2.LOG_PROBS_SAMPLED,
}


def sampling_message(params: SamplingParams) -> rollout_pb2.Sampling:
    """Sampling parameters as they stand in a job."""
    return rollout_pb2.Sampling(
        temperature=params.temperature,
        top_k=params.top_k,
        top_p=params.top_p,
        cfg=params.cfg,
        cfg_constant=params.cfg_constant,
    )


def sampling_params(sampling: rollout_pb2.Sampling) -> SamplingParams:
    """Convert, checking ranges. Raises ValueError naming the field."""
    return SamplingParams(sampling.temperature, sampling.top_k, sampling.top_p, sampling.cfg, sampling.cfg_constant)


def log_probs_of(job: rollout_pb2.RolloutJob) -> LogProbs:
    """Which log-probabilities a job wants; plain where it does not say.

    Raises ValueError for a kind that this version does not know.
    """
    if job.log_probs == rollout_pb2.LOG_PROBS_UNSPECIFIED:
        return "plain"
    for name, kind in KINDS.items():
        if kind == job.log_probs:
            return name
    raise ValueError(f"log_probs must be plain or sampled, got {job.log_probs}")


def trained_sampling(job: rollout_pb2.RolloutJob) -> SamplingParams | None:
    """The sampling of which the trained distribution is: the job's, or None for the plain one.

    Raises ValueError as the others do.
    """
    return sampling_params(job.sampling) if log_probs_of(job) == "sampled" else None
