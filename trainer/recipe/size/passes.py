"""Memory and FLOPs of a rollout worker's group and of a trainer's pass, by running them on the meta device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from functools import cache

import torch
from torch import Tensor

from varl.policy.base import cells
from varl.policy.ledger import Ledger, held_bytes
from varl.policy.load import BlankPolicy, load_blank
from varl.policy.lora import adapters_off
from varl.policy.recompute import Recompute, Recomputes
from varl.trainer.objectives.vmr import Stage
from varl.trainer.recipe.config import Recipe
from varl.trainer.recipe.sections import ModelSettings, ObjectiveSettings, SamplingSettings
from varl.trainer.recipe.trained import choose_recompute, choose_trained

# A rollout worker's flags --sample-batch and --decode-batch, which no recipe sets.
SAMPLE_BATCH, DECODE_BATCH = 64, 8
SHALLOW = (2, 4)  # layers; what they differ by is what every further layer adds


@dataclass(frozen=True)
class Drawing:
    """Bytes and FLOPs of the sequences that a rollout worker samples together.

    cache: keys and values (and what else the sampler's states hold) at the end. working: the most beside it.
    """

    cache: int
    working: int
    flops: int


@dataclass(frozen=True)
class Teaching:
    """Bytes and FLOPs of one pass of the trainer.

    activations: the most that is alive at once, forwards and backwards, the reference policy's pass included; of the
    parameters' gradients only those that are being made. flops: both forward passes and the backward one.
    """

    activations: int
    flops: int


@dataclass(frozen=True)
class Decoding:
    """Bytes of the images that are decoded together, and FLOPs of one image."""

    working: int
    flops: int


@dataclass(frozen=True)
class _Work:
    """All that decides a pass; equal ones are run once."""

    model: ModelSettings
    sampling: SamplingSettings
    objective: ObjectiveSettings
    stage: Stage
    copies: int
    prompt: str
    rows: int
    recompute: Recompute


def drawing(recipe: Recipe, stage: Stage, prompt: str, sequences: int) -> Drawing:
    """Sampling ``sequences`` sequences of one prompt together, as varl.services.rollout.generation does."""
    return _drawing(_work(recipe, stage, prompt, sequences))


def teaching(recipe: Recipe, stage: Stage, prompt: str, rows: int) -> Teaching:
    """A pass of ``rows`` candidates, as varl.trainer.step.update does it."""
    return _teaching(_work(recipe, stage, prompt, rows))


def decoding(policy: BlankPolicy, images: int) -> Decoding:
    """Decoding ``images`` images together."""
    tokens = torch.zeros(images, sum(cells(policy.grids)), dtype=torch.int64, device="meta")
    with torch.no_grad(), Ledger() as ledger:
        policy.tokenizer.decode(tokens)
    return Decoding(ledger.peak, ledger.flops // images)


def _work(recipe: Recipe, stage: Stage, prompt: str, rows: int) -> _Work:
    copies = recipe.rollout.continuations if stage is Stage.PREFIX else 1
    settings = (recipe.model, recipe.rollout.sampling, recipe.objective)
    return _Work(*settings, stage, copies, prompt, rows, recipe.optimizer.recompute)


@cache
def _drawing(work: _Work) -> Drawing:
    return Drawing(*_by_depth(work, lambda policy: astuple(_draw(policy, work))))


@cache
def _teaching(work: _Work) -> Teaching:
    return Teaching(*_by_depth(work, lambda policy: astuple(_teach(policy, work))))


def _by_depth(work: _Work, measure: Callable[[BlankPolicy], Sequence[int]]) -> list[int]:
    """What ``measure`` finds of the model, from two shallow ones, since every operation takes its time here too."""
    policy, (low, high) = load_blank(work.model.dir, work.model.dtype), SHALLOW
    if policy.depth <= high:
        return list(measure(policy))
    first, second = (measure(_shallow(policy, work, layers)) for layers in SHALLOW)
    return [a + (b - a) * (policy.depth - low) // (high - low) for a, b in zip(first, second, strict=True)]


def _shallow(policy: BlankPolicy, work: _Work, layers: int) -> BlankPolicy:
    """The model with so few layers, to which the passes are long that are so to the whole one."""
    found = load_blank(work.model.dir, work.model.dtype, layers)
    if isinstance(found.module, Recomputes):
        found.module.long *= layers / policy.depth
    return found


def _draw(policy: BlankPolicy, work: _Work) -> Drawing:
    params, split = work.sampling.params(), work.objective.split_scale
    shared = {Stage.FULL: 0, Stage.PREFIX: max(1, work.rows // work.copies), Stage.SUFFIX: 1}[work.stage]
    with Ledger() as ledger:
        states = [policy.prefill(work.prompt, guided=params.cfg > 0)]
        for to_scale, count in [(split, shared)] * bool(shared) + [(len(policy.grids), work.rows)]:
            state, _ = policy.sample(states[-1], to_scale, [0] * count, params, work.objective.log_probs)
            states.append(state)
        held = held_bytes(states)  # the worker, too, has all of them until it is done with the group
    return Drawing(held, ledger.peak - held, ledger.flops)


def _teach(policy: BlankPolicy, work: _Work) -> Teaching:
    grids, split = policy.grids, work.objective.split_scale
    whole = grids[:split] if work.stage is Stage.PREFIX else grids
    first = split if work.stage is Stage.SUFFIX else 0
    tokens = torch.zeros(work.rows, sum(cells(whole)), dtype=torch.int64, device="meta")
    sampling = work.sampling.params() if work.objective.log_probs == "sampled" else None
    choose_trained(policy, work.model)
    choose_recompute(policy, work.recompute)
    with Ledger(shared=grids[:first]) as ledger:
        if isinstance(policy.module, Recomputes):
            policy.module.around = ledger.around_again
        own = policy.distribution(work.prompt, tokens, first, sampling)
        with torch.no_grad(), adapters_off(policy.module):  # the reference policy, a copy or the base itself
            reference = policy.distribution(work.prompt, tokens, first, sampling)
        found = own.evaluate(tokens[:, sum(cells(grids[:first])) :], reference)
        for parameter in policy.module.parameters():
            if parameter.requires_grad:  # a gradient is counted while it is made; all of them are not activations
                parameter.register_post_accumulate_grad_hook(_drop)  # type: ignore[no-untyped-call]
        (found.log_probs + found.kl).sum().backward()  # type: ignore[no-untyped-call]
    return Teaching(ledger.peak, ledger.flops)


def _drop(parameter: Tensor) -> None:
    parameter.grad = None
