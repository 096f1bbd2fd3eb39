"""What the training of a run weighed, for its report: the scales' shares of the loss, and one image's mask on them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from torch import Tensor

from varl.policy.base import Grid, cells
from varl.studies.report.rows import Pair, Side
from varl.trainer.objectives.mask_propagation import MaskPropagation, corners_of, propagate
from varl.trainer.objectives.panw import shares, step_weights
from varl.trainer.objectives.vmr import Stage, trained_scales
from varl.trainer.recipe.sections import ObjectiveSettings

Box = tuple[float, float, float, float]  # x, y, width, height in pixels


@dataclass(frozen=True)
class ScaleShare:
    """One scale (numbered from 1) in the updates that train it.

    share: its part of the loss's weight in them, in [0, 1]; equal: what it would be if every token weighed the same.
    """

    scale: int
    grid: Grid
    stage: str
    share: float
    equal: float


@dataclass(frozen=True)
class MaskedScale:
    """The mask on one scale. kept: share of its tokens that get the reward's gradient; hidden: where the others are."""

    scale: int
    grid: Grid
    kept: float
    hidden: tuple[Box, ...]


@dataclass(frozen=True)
class MaskedSample:
    """One image with the mask that its regions give it on every scale."""

    prompt: str
    side: Side
    scales: tuple[MaskedScale, ...]


def scale_shares(grids: Sequence[Grid], objective: ObjectiveSettings, updates: int) -> list[ScaleShare]:
    """Every scale's share by PANW, from the coarsest; a scale that none of the run's updates trains is left out."""
    found = [row for stage in objective.stages_within(updates) for row in _stage_shares(grids, objective, stage)]
    return sorted(found, key=lambda row: row.scale)


def _stage_shares(grids: Sequence[Grid], objective: ObjectiveSettings, stage: Stage) -> Iterator[ScaleShare]:
    scales = trained_scales(stage, objective.split_scale, len(grids))
    steps = cells([grids[scale] for scale in scales])
    weighed = shares(steps, step_weights(steps, objective.alpha, objective.panw_normaliser)).tolist()
    for scale, step, share in zip(scales, steps, weighed, strict=True):
        yield ScaleShare(scale + 1, grids[scale], stage.value, share, step / sum(steps))


def masked_sample(rows: Sequence[Pair], grids: Sequence[Grid], mode: MaskPropagation) -> MaskedSample | None:
    """The trained image with the smallest mask, by which one sees most; None: masks are off, or nothing was located."""
    if mode == "off" or not grids:
        return None
    located = [
        (row.prompt, row.after) for row in rows if row.after and any(word.polygon for word, _ in row.after.words)
    ]
    samples = [MaskedSample(prompt, side, tuple(_masks(side, grids, mode))) for prompt, side in located]
    return min(samples, key=lambda sample: sample.scales[-1].kept, default=None)


def _masks(side: Side, grids: Sequence[Grid], mode: MaskPropagation) -> Iterator[MaskedScale]:
    polygons = [corners_of(word.polygon) for word, _ in side.words if word.polygon]
    size = (side.height, side.width)
    masks = propagate(polygons, grids, size, mode).split_with_sizes(cells(grids))
    for scale, (grid, mask) in enumerate(zip(grids, masks, strict=True), start=1):
        table = mask.reshape(grid)
        yield MaskedScale(scale, grid, float(mask.float().mean()), tuple(_hidden(table, size)))


def _hidden(mask: Tensor, size: tuple[int, int]) -> Iterator[Box]:
    """The cells of a mask [h, w] that are off, in pixels of an image of ``size`` (height, width); runs share a box."""
    high, wide = size[0] / mask.shape[0], size[1] / mask.shape[1]
    for row, line in enumerate(mask.tolist()):
        for kept, run in groupby(enumerate(line), key=lambda cell: cell[1]):
            columns = [column for column, _ in run]
            if not kept:
                yield columns[0] * wide, row * high, len(columns) * wide, high
