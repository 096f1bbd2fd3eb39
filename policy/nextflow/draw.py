"""Tokens of one scale, a few sites at a time, so that the logits of all sites never exist at once."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from varl.policy.base import LogProbs, Sampled, SamplingParams
from varl.policy.distributions import SLICE
from varl.policy.kv_cache import repeat
from varl.policy.nextflow.transformer import NextFlowTransformer
from varl.policy.sampling import guided, probabilities, sample


@dataclass(frozen=True)
class Draw:
    """How every site of a scale is drawn. strength: guidance t; copies: candidates a row of hidden states."""

    params: SamplingParams
    strength: float
    copies: int
    log_probs: LogProbs


def draw_sites(
    module: NextFlowTransformer, hidden: Tensor, unconditional: Tensor | None, uniforms: Tensor, how: Draw
) -> Sampled:
    """Tokens and their log-probabilities, [rows * copies, n], of normalised outputs [rows, n, dim] of both branches.

    uniforms: float64 [rows * copies, n]. At 7B a candidate's logits are 128 KiB a site and half a GiB on a 64x64 grid,
    of which sampling would hold about ten at once.
    """
    sites = max(1, SLICE // (module.visual_head().shape[0] * uniforms.shape[0]))
    parts = [
        _draw(
            module,
            hidden[:, first : first + sites],
            None if unconditional is None else unconditional[:, first : first + sites],
            uniforms[:, first : first + sites],
            how,
        )
        for first in range(0, hidden.shape[1], sites)
    ]
    return Sampled.joined(parts)


def _draw(
    module: NextFlowTransformer, hidden: Tensor, unconditional: Tensor | None, uniforms: Tensor, how: Draw
) -> Sampled:
    logits = module.visual_logits(hidden)
    chosen_from = logits
    if unconditional is not None:
        chosen_from = guided(logits, module.visual_logits(unconditional), how.strength)
    tokens = sample(repeat(probabilities(chosen_from, how.params), how.copies), uniforms)
    reported = logits if how.log_probs == "plain" else chosen_from / how.params.temperature
    found = repeat(reported.log_softmax(-1), how.copies).gather(-1, tokens[..., None]).squeeze(-1)
    return Sampled(tokens, found)
