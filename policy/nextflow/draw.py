"""Tokens of one scale, a few sites at a time, so that the logits of all sites never exist at once."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from varl.policy.base import LogProbs, Sampled, SamplingParams
from varl.policy.nextflow.transformer import NextFlowTransformer
from varl.policy.sampling import choices, draw, guided

# Logits of one slice: what a CPU's second-level cache holds, and 128 MiB elsewhere, of which about four are alive.
CACHED, SLICE = 2**17, 2**25


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

    uniforms: float64 [rows * copies, n]. At 7B a candidate's logits are 128 KiB a site and half a GiB on a 64x64 grid.
    """
    rows, n, _ = hidden.shape
    by_site = uniforms.view(rows, how.copies, n).transpose(1, 2)
    limit = CACHED if hidden.device.type == "cpu" else SLICE
    sites = max(1, limit // (module.visual_head().shape[0] * rows))
    parts = [
        _draw(
            module,
            hidden[:, first : first + sites],
            None if unconditional is None else unconditional[:, first : first + sites],
            by_site[:, first : first + sites],
            how,
        )
        for first in range(0, n, sites)
    ]
    tokens, log_probs = (torch.cat(found, 1).transpose(1, 2).reshape(-1, n) for found in zip(*parts, strict=True))
    return Sampled(tokens, log_probs)


def _draw(
    module: NextFlowTransformer, hidden: Tensor, unconditional: Tensor | None, uniforms: Tensor, how: Draw
) -> tuple[Tensor, Tensor]:
    """Tokens and log-probabilities [rows, n, copies] of outputs [rows, n, dim] and uniforms [rows, n, copies]."""
    logits = module.visual_logits(hidden)
    wanted = logits
    if unconditional is not None:
        wanted = guided(logits, module.visual_logits(unconditional), how.strength)
    weights, codes = choices(wanted, how.params)
    tokens = draw(weights, uniforms.contiguous())
    if codes is not None:
        tokens = codes.gather(-1, tokens)
    reported = logits if how.log_probs == "plain" else wanted / how.params.temperature
    return tokens, reported.gather(-1, tokens) - reported.logsumexp(-1, keepdim=True)
