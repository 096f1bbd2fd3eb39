"""Which parameters are trained, for models whose gains are those of their normalisation layers."""

from __future__ import annotations

from torch import nn

from varl.policy.base import ParameterGroups, Trainable

NORMS = (nn.RMSNorm, nn.LayerNorm, nn.GroupNorm)


def norm_gains(module: nn.Module) -> set[nn.Parameter]:
    """The weights of all normalisation layers."""
    return {part.weight for part in module.modules() if isinstance(part, NORMS) and part.weight is not None}


def select(module: nn.Module, trainable: Trainable) -> None:
    """Let all parameters require a gradient, or the gains alone."""
    gains = norm_gains(module)
    for parameter in module.parameters():
        parameter.requires_grad_(trainable == "all" or parameter in gains)


def parameter_groups(module: nn.Module) -> ParameterGroups:
    """The parameters that require a gradient, in the module's order."""
    gains, trained = norm_gains(module), [parameter for parameter in module.parameters() if parameter.requires_grad]
    return ParameterGroups([p for p in trained if p in gains], [p for p in trained if p not in gains])
