"""Tables of a study's gradients and KL: their shares by scale, conflicts between scales, signal and noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

from varl.studies.study.results import COSINE, SHARES, Point, RunResult, runs_by_arm
from varl.studies.study.tables import table

NOTE = (
    "Shares of the sum over scales, mean over updates and seeds, scales from the coarsest. Cosine: between the gradient"
    " of a scale's loss and that of the other scales trained with it, in one group; below 0 they conflict."
)
NOISE_NOTE = (
    "Signal over noise: the squared norm of the expected gradient over the variance of an update's estimate of it, from"
    " the gradients of its groups, as sums over the updates measured. At 1 an update has as much noise as signal."
)

PREFIX_NOTE = (
    "The part of the reward's variance that lies between prefixes, mean over updates. Where it is far below the part of"
    " the images that prefix updates take, the split costs more than it brings."
)


def by_scale_table(runs: Sequence[RunResult]) -> str:
    """Rows of shares and cosines by scale for each arm; empty where no run measured them."""
    rows = []
    for prefix, label in SHARES.items():
        rows += [
            [arm, label, *(f"{share:.2f}" for share in scale_shares(own, prefix))]
            for arm, own in runs_by_arm(runs).items()
        ]
    for arm, own in runs_by_arm(runs).items():
        rows.append([arm, "cosine", *(_number(value) for value in scale_means(own, COSINE))])
    rows = [row for row in rows if len(row) > 2]
    width = max(map(len, rows), default=0)
    head = ["arm", "", *map(str, range(1, width - 1))]
    return table(head, [row + [""] * (width - len(row)) for row in rows]) if rows else ""


def noise_table(runs: Sequence[RunResult]) -> str:
    """Signal over noise of each arm's updates, by the scales that they train; empty where no run measured it."""
    rows = []
    for arm, own in runs_by_arm(runs).items():
        stages = dict[str, list[Point]]()
        for point in _points_with("grad_noise", own):
            stages.setdefault(_scales_of(point), []).append(point)
        rows += [[arm, stage, str(len(points)), f"{signal_to_noise(points):.2f}"] for stage, points in stages.items()]
    return table(["arm", "scales", "updates", "signal / noise"], rows) if rows else ""


def prefix_table(runs: Sequence[RunResult]) -> str:
    """The part of the reward's variance that each arm's prefix decides; empty where no run measured it."""
    rows = []
    for arm, own in runs_by_arm(runs).items():
        shares = [point.metrics["prefix_share"] for point in _points_with("prefix_share", own)]
        if shares:
            rows.append([arm, str(len(shares)), f"{fmean(shares):.2f}"])
    return table(["arm", "prefix updates", "prefix decides"], rows) if rows else ""


def signal_to_noise(points: Sequence[Point]) -> float:
    """Sum of the signal over sum of the noise of these updates; NaN without noise."""
    noise = math.fsum(point.metrics["grad_noise"] for point in points)
    return math.fsum(point.metrics["grad_signal"] for point in points) / noise if noise else math.nan


def scale_means(runs: Sequence[RunResult], prefix: str) -> list[float]:
    """Means over the updates that trained each scale, in all runs; NaN for a scale that none trained."""
    found = dict[int, list[float]]()
    for point in (point for run in runs for point in run.curve):
        for name, value in point.metrics.items():
            if name.startswith(prefix):
                found.setdefault(int(name.removeprefix(prefix)), []).append(value)
    return [fmean(found.get(scale, [math.nan])) for scale in range(1, max(found, default=0) + 1)]


def scale_shares(runs: Sequence[RunResult], prefix: str) -> list[float]:
    """The means as shares of their sum; a scale that no update trained has none of it."""
    means = [0.0 if math.isnan(mean) else max(mean, 0.0) for mean in scale_means(runs, prefix)]
    return [mean / sum(means) for mean in means] if sum(means) > 0 else []


def _points_with(metric: str, runs: Sequence[RunResult]) -> list[Point]:
    return [point for run in runs for point in run.curve if metric in point.metrics]


def _scales_of(point: Point) -> str:
    prefix = next(iter(SHARES))
    trained = [int(name.removeprefix(prefix)) for name in point.metrics if name.startswith(prefix)]
    return f"{min(trained)} to {max(trained)}" if trained else ""


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.2f}"
