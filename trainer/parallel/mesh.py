"""Spreads a policy's weights over the ranks of a run (FSDP2). The model's own code knows nothing of it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

from varl.policy.base import Shardable, ShardUnits, TrainablePolicy
from varl.policy.lora import is_adapted, of_adapters
from varl.trainer.parallel.ranks import Ranks
from varl.trainer.recipe.sections import ParallelSettings
from varl.trainer.step.spread import spread_like, whole


def spread(policy: TrainablePolicy, name: str, ranks: Ranks, settings: ParallelSettings) -> None:
    """Spread the weights of ``policy.module``, each rank keeping its part; all ranks must call this.

    From then on ``module.state_dict()`` at rank 0 is whole, on the CPU, since what is written and published is, and
    ``load_state_dict`` takes whole weights; ``name`` is what the other ranks know the policy by (``order_of``). The
    parameters themselves are parts (DTensor). Of a module with adapters ``state_dict()`` gathers those alone: its
    frozen weights, whose values nobody asks for, stay parts.
    """
    units = policy.shard_units() if isinstance(policy, Shardable) else ShardUnits([])
    dtype = torch.bfloat16 if settings.compute_dtype == "bfloat16" else None
    how = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    warnings.filterwarnings("ignore", message=".*returned a view tensor", category=UserWarning)  # none is written to
    for block in units.blocks:
        _sum_gradients(fully_shard(block, mesh=ranks.mesh, mp_policy=how))
        if units.block_call != "forward":
            register_fsdp_forward_method(block, units.block_call)
    # What is read outside of ``forward`` must still be there after it.
    _sum_gradients(fully_shard(policy.module, mesh=ranks.mesh, mp_policy=how, reshard_after_forward=False))
    for method in units.reads:
        register_fsdp_forward_method(policy.module, method)
    if dtype is not None:
        _cast_buffers(policy.module, dtype)
    _whole_states(policy.module, name, ranks)


def let_go(module: nn.Module) -> None:
    """Drop what was gathered and is still there: after passes that had no backward one."""
    if isinstance(module, FSDPModule):
        module.reshard()


def order_of(name: str) -> str:
    """The order by which a policy's weights are gathered at rank 0."""
    return f"gather {name}"


def _sum_gradients(module: FSDPModule) -> None:
    """Add gradients over ranks; the loss is divided by the number of all groups already."""
    module.set_gradient_divide_factor(1.0)
    module.set_force_sum_reduction_for_comms(True)  # gloo has no other


def _cast_buffers(module: nn.Module, dtype: torch.dtype) -> None:
    """Buffers in the type of the gathered weights, as in a model that is loaded in it."""
    for part in module.modules():
        for name, buffer in part.named_buffers(recurse=False):
            if buffer.is_floating_point():
                setattr(part, name, buffer.to(dtype))


def _whole_states(module: nn.Module, name: str, ranks: Ranks) -> None:
    orders: list[Any] = []
    adapted = is_adapted(module)

    def before(_: nn.Module, prefix: str, keep: bool) -> None:
        orders.append(ranks.together(order_of(name)))
        orders[-1].__enter__()

    def after(_: nn.Module, state: dict[str, Tensor], prefix: str, metadata: Mapping[str, Any]) -> None:
        for key in [key for key in state if not adapted or of_adapters(key)]:
            gathered = whole(state[key])
            state[key] = gathered.cpu() if ranks.leads else torch.empty_like(gathered, device="meta")
        orders.pop().__exit__(None, None, None)

    def loading(own: nn.Module, state: dict[str, Tensor], *_: object) -> None:
        models = dict(own.named_parameters())
        state |= {key: spread_like(value, models[key]) for key, value in state.items() if key in models}

    module.register_state_dict_pre_hook(before)  # type: ignore[no-untyped-call]
    module.register_state_dict_post_hook(after)  # type: ignore[no-untyped-call]
    module.register_load_state_dict_pre_hook(loading)  # type: ignore[no-untyped-call]
