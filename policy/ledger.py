"""Memory and FLOPs of a computation on the meta device, where tensors have shapes and no values.

What is counted is the code itself, so that a figure cannot differ from what the code does.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import fields, is_dataclass
from functools import cache
from types import TracebackType
from typing import Any, Self

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from varl.policy.base import Grid


class Ledger:
    """A context in which tensors on the meta device are counted.

    shared: grids whose tokens are the same for all candidates, which torch.equal cannot see without values.
    """

    def __init__(self, shared: Collection[Grid] = ()) -> None:
        self._operations, self._stand_in = _Operations(), _StandIn(frozenset(shared))
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._stack.enter_context(self._operations)
        self._stack.enter_context(self._stand_in)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def around_again(self) -> tuple[AbstractContextManager[None], AbstractContextManager[Any]]:
        """For Recomputes.around: autograd leaves this context, so that what it computes again must enter it."""
        return nullcontext(), self._stand_in

    @property
    def live(self) -> int:
        """Bytes of the storages that were made in the context and are alive now."""
        return self._operations.live

    @property
    def peak(self) -> int:
        """The most bytes that were alive at once."""
        return self._operations.peak

    @property
    def flops(self) -> int:
        """FLOPs so far of matrix products, convolutions and attention; a multiply-add is two."""
        return self._operations.flops + self._stand_in.flops


class _Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = self.flops = 0
        self._known = weakref.WeakSet[Any]()

    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401
        types: object,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        named = kwargs or {}
        found = func(*args, **named)
        formula = flop_registry.get(func.overloadpacket)
        if formula is not None:
            self.flops += int(formula(*args, **named, out_val=found))
        if _makes_tensors(func):
            for one in _tensors(found):
                self._enter(one)
        return found

    def _enter(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if not tensor.is_meta or storage in self._known:
            return
        self._known.add(storage)
        self.live += storage.nbytes()
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._leave, storage.nbytes())

    def _leave(self, size: int) -> None:
        self.live -= size


@cache
def _makes_tensors(func: Any) -> bool:  # noqa: ANN401
    """Whether results have storages of their own; else they are views of what the operation was given."""
    return all(result.alias_info is None for result in func._schema.returns)


class _StandIn(TorchFunctionMode):
    """Attention as a fused kernel has it, and which tokens are equal; the meta device knows neither."""

    def __init__(self, shared: frozenset[Grid]) -> None:
        super().__init__()
        self._shared, self.flops = shared, 0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        if func is F.scaled_dot_product_attention:
            return _Attention.apply(self, *args[:3])  # type: ignore[no-untyped-call]
        if func is F.interpolate and args[0].is_meta:  # which the meta device takes apart, in a hundred times the time
            return _resized(args[0], *args[1:], **(kwargs or {}))
        if func is torch.equal and args[0].is_meta:
            return len(args[0]) == 1 or tuple(args[0].shape[-2:]) in self._shared
        return func(*args, **(kwargs or {}))


def _resized(
    x: Tensor,
    size: int | Sequence[int] | None = None,
    scale_factor: float | None = None,
    **_: object,
) -> Tensor:
    """An empty result of F.interpolate; what is resized here is never differentiated."""
    if size is None:
        wanted = [int(side * (scale_factor or 1.0)) for side in x.shape[2:]]
    else:
        wanted = [size] * (x.ndim - 2) if isinstance(size, int) else list(size)
    return x.new_empty(*x.shape[:2], *wanted)


class _Attention(torch.autograd.Function):
    """Shapes and FLOPs of attention by a fused kernel, which keeps inputs, outputs and a number a query.

    Its scores exist nowhere. The backward pass has twice the FLOPs of the forward one.
    """

    @staticmethod
    def forward(ctx: Any, counter: _StandIn, q: Tensor, k: Tensor, v: Tensor) -> Tensor:  # noqa: ANN401
        out = torch.empty_like(q)
        ctx.save_for_backward(q, k, v, out, torch.empty(q.shape[:-1], device=q.device))
        ctx.counter, ctx.cost = counter, 4 * q.numel() * k.shape[-2]
        counter.flops += ctx.cost
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        ctx.counter.flops += 2 * ctx.cost
        return (None, *(torch.empty_like(one) for one in ctx.saved_tensors[:3]))


def held_bytes(value: object) -> int:
    """Bytes of all tensors that a state (dataclasses, lists, tuples of them) refers to, each storage once."""
    storages = [one.untyped_storage() for one in _tensors(value)]
    return sum({id(storage): int(storage.nbytes()) for storage in storages}.values())


def _tensors(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _tensors(part)
    elif is_dataclass(value):
        for field in fields(value):
            yield from _tensors(getattr(value, field.name))
