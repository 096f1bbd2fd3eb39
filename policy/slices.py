"""Computing something for many sites a few at a time, forwards and backwards, without keeping its inside."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Tensors = Sequence[Any]  # of tensors, None where there is none; the work knows which is which
Work = Callable[
    [Tensors, Tensors], tuple[Tensor, ...]
]  # (some rows of what belongs to sites, what they share) to a value a row each


def by_slices(work: Work, step: int, by_site: Tensors, shared: Tensors) -> tuple[Tensor, ...]:
    """What ``work`` makes of all sites, each [sites]; at most ``step`` sites at a time unless all fit in one go.

    by_site: tensors [sites, ...], the first of which is there. shared: tensors that all sites use. The gradient is
    exact: going backwards each slice is computed again, and only its share of the gradients is kept. torch's own
    checkpoint would also keep every recomputed tensor that no gradient passes through, until the last slice is done.
    """
    if len(by_site[0]) <= step:  # little enough to be kept
        return work(by_site, shared)
    outputs: tuple[Tensor, ...] = _Sliced.apply(work, step, len(by_site), *by_site, *shared)  # type: ignore[no-untyped-call]
    return outputs


class _Sliced(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, work: Work, step: int, by_site: int, *tensors: Tensor | None) -> tuple[Tensor, ...]:  # noqa: ANN401
        ctx.work, ctx.step, ctx.by_site = work, step, by_site
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)
        parts = [work(_rows(tensors[:by_site], rows), tensors[by_site:]) for rows in _slices(tensors, step)]
        return tuple(torch.cat(column) for column in zip(*parts, strict=True))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        tensors: tuple[Tensor | None, ...] = ctx.saved_tensors
        needed = ctx.needs_input_grad[3:]
        totals = [
            torch.zeros_like(one) if one is not None and need else None
            for one, need in zip(tensors, needed, strict=True)
        ]
        for rows in _slices(tensors, ctx.step):
            part_of = [*_rows(tensors[: ctx.by_site], rows), *tensors[ctx.by_site :]]
            found = _slice_gradients(ctx.work, part_of, ctx.by_site, needed, _rows(gradients, rows))
            for index, (total, part) in enumerate(zip(totals, found, strict=True)):
                if total is not None and part is not None:
                    (total[rows] if index < ctx.by_site else total).add_(part)
        return (None, None, None, *totals)


def _slice_gradients(
    work: Work, tensors: Tensors, by_site: int, needed: Sequence[bool], gradients: Tensors
) -> list[Tensor | None]:
    """Gradients of one slice's outputs with respect to those of ``tensors`` that need one, None for the others."""
    with torch.enable_grad():
        leaves = [
            one if one is None else one.detach().requires_grad_(need) for one, need in zip(tensors, needed, strict=True)
        ]
        outputs = work(leaves[:by_site], leaves[by_site:])
    pairs = [
        (out, grad) for out, grad in zip(outputs, gradients, strict=True) if grad is not None and out.requires_grad
    ]
    wanted = [leaf for leaf in leaves if leaf is not None and leaf.requires_grad]
    if not pairs:
        return [None] * len(leaves)
    found = iter(torch.autograd.grad([out for out, _ in pairs], wanted, [grad for _, grad in pairs], allow_unused=True))
    return [next(found) if leaf is not None and leaf.requires_grad else None for leaf in leaves]


def _slices(tensors: Tensors, step: int) -> list[slice]:
    return [slice(start, start + step) for start in range(0, len(tensors[0]), step)]


def _rows(tensors: Tensors, rows: slice) -> list[Tensor | None]:
    return [None if one is None else one[rows] for one in tensors]
