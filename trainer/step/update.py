"""One update: gradients of the groups one after another in a fixed order, then one optimiser step.

There is no step if anything is not finite.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from enum import Enum

import torch
from torch import Tensor

from varl.policy.base import Evaluation, TrainablePolicy
from varl.policy.lora import adapters_off
from varl.trainer.objectives.grpo import group_advantages, is_zero_std, k3_kl
from varl.trainer.objectives.loss import TokenLoss, group_loss, token_loss
from varl.trainer.objectives.panw import effective_scale, step_weights, token_weights
from varl.trainer.recipe.sections import GuardSettings, ObjectiveSettings, OptimizerSettings
from varl.trainer.step.batch import GroupBatch
from varl.trainer.step.gradients import GradientProbe
from varl.trainer.step.guards import (
    Alarm,
    GuardError,
    Watch,
    duplicate_share,
    duplicates,
    exploding,
    first_ratio,
    non_finite,
    ratio_deviation,
    zero_spread,
)
from varl.trainer.step.metrics import Measured, update_metrics
from varl.trainer.step.optimizer import build_optimizer
from varl.trainer.step.spread import whole

logger = logging.getLogger("trainer")


class UpdateOutcome(Enum):
    """Whether an update moved the weights, and why not."""

    STEPPED = "stepped"
    NO_GROUPS = "no_groups"  # every group was dropped
    NO_PREFERENCE = "no_preference"  # no group's values have any spread
    NON_FINITE_LOSS = "non_finite_loss"
    NON_FINITE_GRADIENT = "non_finite_gradient"
    FIRST_RATIO = "first_ratio"  # an on-policy ratio is not 1
    EXPLODING_GRADIENT = "exploding_gradient"


class NonFiniteLossError(ArithmeticError):
    """The loss of a group is NaN or infinite."""


def learning_rate(settings: OptimizerSettings, update: int) -> float:
    """The learning rate of an update counted from 0.

    Linear from ``warmup_from`` to ``lr``, constant, linear to 0 at ``decay_until``.
    """
    if update >= settings.warmup_updates:
        return settings.lr * _remaining(settings, update)
    return settings.warmup_from + (settings.lr - settings.warmup_from) * update / settings.warmup_updates


def _remaining(settings: OptimizerSettings, update: int) -> float:
    if not settings.decay_until:
        return 1.0
    return min(1.0, max(0, settings.decay_until - update) / (settings.decay_until - settings.decay_from))


@torch.no_grad()
def copy_parameters(source: torch.nn.Module, target: torch.nn.Module) -> None:
    """Give a module the parameters of another one of its kind."""
    for own, new in zip(target.parameters(), source.parameters(), strict=True):
        own.copy_(new)


class Updater:
    """Gradients and steps of one policy against one frozen reference policy.

    The reference may be the policy itself where that has adapters: it is then its base, the adapters being off.

    ``norms``: gradient norms of the last steps by stage (its scales), which the guard against exploding ones compares
    with; part of a checkpoint, as everything is that decides what an update does.
    """

    def __init__(
        self,
        policy: TrainablePolicy,
        reference: TrainablePolicy,
        objective: ObjectiveSettings,
        optimizer: OptimizerSettings,
        guards: GuardSettings | None = None,
    ) -> None:
        self._guards = guards or GuardSettings()
        self.norms: dict[str, list[float]] = {}
        self.policy, self.reference = policy, reference
        self._objective, self._settings = objective, optimizer
        self.moves_reference = objective.kl_anchor == "previous"
        self.optimizer = build_optimizer(policy.parameter_groups(), optimizer)
        policy.module.eval()  # dropout or batch statistics would part the log-probabilities from the sampler's
        if reference is not policy:
            reference.module.eval().requires_grad_(False)

    def update(
        self, groups: Sequence[GroupBatch], update: int, by_scale: bool
    ) -> tuple[UpdateOutcome, dict[str, float]]:
        """Take one step on the groups of an update, all of one stage.

        ``by_scale`` also measures the gradient of each scale's loss, and the signal and noise of the whole.
        Returns what happened and the metrics; the weights are as before unless the outcome is STEPPED.

        Raises:
            GuardError: a guard that is set to stop the run saw something; the weights are as before.
        """
        watch, metrics = Watch(self._guards.model_dump()), dict[str, float]()
        try:
            outcome = self._update(groups, update, by_scale, watch, metrics)
        except GuardError as error:
            error.metrics = metrics | watch.metrics()
            raise
        for alarm in watch.alarms:
            logger.warning("update %d: guards.%s: %s", update, alarm.guard, alarm.detail)
        return outcome, metrics | watch.metrics()

    def _update(
        self, groups: Sequence[GroupBatch], update: int, by_scale: bool, watch: Watch, metrics: dict[str, float]
    ) -> UpdateOutcome:
        # Which groups say anything: finite rewards, candidates that differ, values with a spread.
        sound = [group for group in groups if not any(watch.skips(alarm) for alarm in self._group_alarms(group))]
        used = self._with_preference(sound, watch, metrics)
        if not used:
            return UpdateOutcome.NO_PREFERENCE if sound else UpdateOutcome.NO_GROUPS
        # Forward and backward, a group at a time: gradients add up, activations do not.
        self.optimizer.zero_grad(set_to_none=True)
        probe = GradientProbe(self._parameters(), used[0].scales, len(used), update) if by_scale else None
        try:
            measured = self._gradients(used, watch, probe)
        except NonFiniteLossError:
            return UpdateOutcome.NON_FINITE_LOSS
        metrics |= probe.metrics() if probe else {}
        # Clip over all groups together, and measure before anything is decided.
        norm = float(whole(torch.nn.utils.clip_grad_norm_(self._parameters(), self._settings.grad_clip or math.inf)))
        metrics |= {"grad_norm": norm, **update_metrics(measured, used[0].scales, used[0].steps)}
        metrics["panw/effective_scale"] = effective_scale(used[0].steps, self._step_weights(used[0]))
        # The last moment at which the weights can be left as they are.
        refused = self._refused(used, measured, norm, watch)
        if refused is not None:
            return refused
        metrics["lr"] = self._step(update)
        return UpdateOutcome.STEPPED

    def _group_alarms(self, group: GroupBatch) -> list[Alarm | None]:
        rewards = torch.cat([group.values.flatten(), group.total.flatten()])
        whole_images = group.scales.stop == len(self.policy.grids)  # one prefix may grow into different images
        alike = duplicates(group.tokens, self._guards.duplicate_share) if whole_images else None
        return [non_finite("rewards", rewards), alike]

    def _with_preference(
        self, groups: Sequence[GroupBatch], watch: Watch, metrics: dict[str, float]
    ) -> list[GroupBatch]:
        """The groups that say which candidate is better; all of them where the recipe keeps the others for their KL."""
        if not groups:
            return []
        without = sum(map(self._is_zero_std, groups))
        metrics |= {
            "zero_std_ratio": without / len(groups),
            "duplicate_share": max(duplicate_share(group.tokens) for group in groups),
        }
        all_alike = zero_spread(len(groups), without)
        if self._objective.zero_std == "keep" or (all_alike and self._guards.zero_spread == "off"):
            return list(groups)
        watch.skips(all_alike)
        return [group for group in groups if not self._is_zero_std(group)]

    def _refused(
        self, used: Sequence[GroupBatch], measured: Sequence[Sequence[Measured]], norm: float, watch: Watch
    ) -> UpdateOutcome | None:
        """Why no step may be taken on the gradients that lie ready, or None.

        A norm joins those that later ones are compared with, also one that is refused, so that norms which stay large
        pass in the end. That of groups without preference does not: KL alone says nothing of the others' size.
        """
        ratios = [
            part.sampler_ratio
            for group, parts in zip(used, measured, strict=True)
            if not group.staleness
            for part in parts
        ]
        deviation = ratio_deviation(ratios, self._guards.ratio_quantile)
        if watch.skips(first_ratio(deviation, self._guards.ratio_tolerance)):
            return UpdateOutcome.FIRST_RATIO
        if watch.skips(non_finite("the gradient norm", torch.tensor(norm))):
            return UpdateOutcome.NON_FINITE_GRADIENT
        history = self.norms.setdefault(f"{used[0].scales.start}-{used[0].scales.stop}", [])
        alarm = exploding(norm, history, self._guards.grad_norm_factor)
        if not all(map(self._is_zero_std, used)):
            history.append(norm)
            del history[: -self._guards.grad_norm_window]
        return UpdateOutcome.EXPLODING_GRADIENT if watch.skips(alarm) else None

    def _step(self, update: int) -> float:
        if self.moves_reference:
            copy_parameters(self.policy.module, self.reference.module)
        rate = learning_rate(self._settings, update)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["lr_factor"]
        self.optimizer.step()
        return rate

    def _gradients(self, used: Sequence[GroupBatch], watch: Watch, probe: GradientProbe | None) -> list[list[Measured]]:
        """Add up the gradients of all groups; returns what their passes saw, by group.

        Raises:
            NonFiniteLossError: a loss is not finite, and is to be skipped.
        """
        return [self._backward(group, len(used), watch, probe) for group in used]

    def _backward(self, group: GroupBatch, groups: int, watch: Watch, probe: GradientProbe | None) -> list[Measured]:
        """Add the gradient of one group's part of the loss, a few candidates at a time."""
        measured = [self._backward_part(group, rows, groups, watch, probe) for rows in self._passes(group)]
        if probe:
            probe.add_group()
        return measured

    def _backward_part(
        self, group: GroupBatch, rows: slice, groups: float, watch: Watch, probe: GradientProbe | None = None
    ) -> Measured:
        loss, measured = self._token_loss(group, rows)
        value = group_loss(loss.terms) * len(loss.terms) / len(group.values) / groups
        if watch.skips(non_finite("the loss", self._total(value.detach()))):
            raise NonFiniteLossError
        if probe:
            parts = loss.terms.split_with_sizes(list(group.steps), dim=-1)
            probe.add_pass([part.sum() / len(group.values) for part in parts])
        value.backward()  # type: ignore[no-untyped-call]
        return measured

    def _total(self, value: Tensor) -> Tensor:
        """The sum of a value over all processes that train together: here there is one."""
        return value

    def _token_loss(self, group: GroupBatch, rows: slice) -> tuple[TokenLoss, Measured]:
        tokens = group.tokens[rows]
        found = self._evaluate(group, tokens)
        log_probs, device = found.log_probs, found.log_probs.device
        reported, mask = group.reported[rows].to(device), group.mask[rows].to(device)
        # A group of older weights is compared with the probabilities that drew it: recomputed ones would be those of
        # newer weights.
        old = log_probs.detach() if self._objective.old_log_probs == "recomputed" and not group.staleness else reported
        kl = found.kl if self._objective.kl_estimator == "exact" else k3_kl(log_probs, found.reference_log_probs)
        advantages = self._advantages(group)[rows].to(log_probs)
        weights = token_weights(group.steps, self._step_weights(group)).to(log_probs)
        loss = token_loss(log_probs, old, advantages, kl, mask, weights, group.steps, self._objective.loss())
        with torch.no_grad():
            sampler_ratio = (log_probs - reported).exp()
            clipped = (loss.surrogate.clipped_low, loss.surrogate.clipped_high)
            measured = Measured(kl.detach(), found.entropy.detach(), sampler_ratio, *clipped, mask, loss.terms.detach())
        return loss, measured

    def _evaluate(self, group: GroupBatch, tokens: Tensor) -> Evaluation:
        """Evaluate a group's trained tokens by policy and reference, both under the recipe's distribution."""
        start, sampling = group.scales.start, group.sampling
        own = self.policy.distribution(group.prompt, tokens, start, sampling)
        with torch.no_grad(), adapters_off(self.reference.module):
            reference = self.reference.distribution(group.prompt, tokens, start, sampling)
        return own.evaluate(tokens[:, -sum(group.steps) :], reference)

    def _passes(self, group: GroupBatch) -> Iterator[slice]:
        size = self._settings.candidates_per_pass or len(group.values)
        yield from (slice(start, start + size) for start in range(0, len(group.values), size))

    def _advantages(self, group: GroupBatch) -> Tensor:
        return group_advantages(group.values, self._objective.advantage_eps)

    def _is_zero_std(self, group: GroupBatch) -> bool:
        return is_zero_std(group.values, self._objective.advantage_eps)

    def _step_weights(self, group: GroupBatch) -> Tensor:
        return step_weights(group.steps, self._objective.alpha, self._objective.panw_normaliser)

    def _parameters(self) -> list[Tensor]:
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
