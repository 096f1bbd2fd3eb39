"""Which parameters of a policy a recipe trains, and what its passes keep."""

from __future__ import annotations

from varl.policy.base import TrainablePolicy
from varl.policy.lora import Lora, attach
from varl.policy.recompute import Recompute, Recomputes
from varl.trainer.recipe.sections import ModelSettings


def choose_trained(policy: TrainablePolicy, model: ModelSettings, seed: int = 0) -> None:
    """Let what the recipe trains, and nothing else, require a gradient; adapters are put in.

    seed: of fresh adapters.

    Raises:
        ValueError: ``model.lora.targets`` names a layer that may have no adapters, or peft is not installed.
    """
    policy.select(model.trainable)
    if not model.lora.rank:
        return
    targets = model.lora.targets or policy.lora_targets
    unknown = sorted(set(targets) - set(policy.lora_targets))
    if unknown:
        raise ValueError(f"model.lora.targets: {', '.join(unknown)}: one of {', '.join(policy.lora_targets)} is meant")
    attach(policy.module, Lora(model.lora.rank, model.lora.alpha, targets), seed)


def choose_recompute(policy: TrainablePolicy, recompute: Recompute) -> None:
    """Say in which passes the policy computes its blocks again; raises ValueError where a policy leaves no choice."""
    if isinstance(policy.module, Recomputes):
        policy.module.recompute = recompute
    elif recompute != "long":
        raise ValueError(
            f"optimizer.recompute: {type(policy.module).__name__} leaves no choice (policy/README.md: Recomputes)"
        )
