"""AdamW over what is trained, with its moments in the weights' own type or in bfloat16."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from varl.policy.base import ParameterGroups
from varl.trainer.recipe.sections import OptimizerSettings

MOMENTS = ("exp_avg", "exp_avg_sq")


def build_optimizer(trained: ParameterGroups, settings: OptimizerSettings) -> torch.optim.AdamW:
    """AdamW over a policy's trained parameters: the gains, with a rate of their own, and the rest.

    Its moments have the parameters' type, or bfloat16 where the settings say so.
    """
    groups: list[dict[str, Any]] = [
        {"params": trained.others, "lr_factor": 1.0},
        {"params": trained.gains, "lr_factor": settings.gain_lr_factor},
    ]
    groups = [group for group in groups if group["params"]]
    single = all(one.dtype == torch.float32 for group in groups for one in group["params"])  # others are small already
    kind = SmallAdamW if single and settings.state_dtype == "bfloat16" else torch.optim.AdamW
    return kind(groups, settings.lr, settings.betas, settings.eps, settings.weight_decay)


def require_same_parameters(optimizer: torch.optim.Optimizer, written: Sequence[Mapping[str, Any]]) -> None:
    """Raise ValueError where ``written``, a checkpoint's groups of parameters, are not as many or as large as these."""
    before, now = ([len(group["params"]) for group in groups] for groups in (written, optimizer.param_groups))
    if before != now:
        raise ValueError(
            f"the checkpoint has trained {before} tensors by group, and this run trains {now}: "
            "model.trainable or model.lora is another"
        )


def put_state(optimizer: torch.optim.Optimizer, state: Mapping[int, Mapping[str, Tensor]]) -> None:
    """Put a checkpoint's moments and step counts in place; rates, decays and epsilon stay those of the settings."""
    groups = optimizer.state_dict()["param_groups"]
    if not isinstance(optimizer, SmallAdamW):
        optimizer.load_state_dict({"state": dict(state), "param_groups": groups})
        return
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for index, own in state.items():  # load_state_dict would give them the parameter's type, twice the room
        moments = {name: own[name].to(parameters[index].device, torch.bfloat16) for name in MOMENTS}
        optimizer.state[parameters[index]] = dict(own) | moments


class SmallAdamW(torch.optim.AdamW):
    """AdamW that keeps its moments in bfloat16 between steps and computes each step in float32.

    They take 4 bytes a parameter in place of 8. A moment that a step changes by less than half its rounding, up to one
    part in 256, would never move, so decay rates are .99 at most (``OptimizerSettings``).
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step; parameters without a gradient stay as they are."""
        loss = torch.enable_grad()(closure)() if closure else None
        for group in self.param_groups:
            for parameter in (one for one in group["params"] if one.grad is not None):
                self._move(parameter, parameter.grad, group)
        return loss

    def _move(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.tensor(0.0)
            state |= {name: torch.zeros_like(parameter, dtype=torch.bfloat16) for name in MOMENTS}
        first, second = (state[name].to(torch.float32) for name in MOMENTS)
        adamw(
            [parameter],
            [gradient],
            [first],
            [second],
            [],
            [state["step"]],
            foreach=False,
            amsgrad=False,
            maximize=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            **{name: group[name] for name in ("lr", "weight_decay", "eps")},
        )
        state |= {name: value.to(torch.bfloat16) for name, value in zip(MOMENTS, (first, second), strict=True)}
