"""Which random stream a piece of a job is sampled from."""

from __future__ import annotations

from varl.policy.sampling import mix

WHOLE = 0  # continuation index of tokens sampled from the prompt on: a whole image, or a prefix


def candidate_seed(job_seed: int, candidate: int, continuation: int = WHOLE) -> int:
    """Return the 64-bit seed of one sample.

    It depends on the arguments alone, so that a redelivered job gives the same group.

    ``continuation`` is WHOLE for tokens that start at the first scale and k + 1 for the k-th continuation after scale
    m. The shared prefix of STAGE_SUFFIX is (candidate 0, WHOLE); its candidates are (i, 1). Two splitmix64 steps
    (varl.policy.sampling.mix) keep neighbouring indices and neighbouring job seeds unrelated.
    """
    return mix(job_seed, candidate, continuation)
