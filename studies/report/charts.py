"""The curves of a run as inline SVG, in the page's own text colour, so that they read in light and dark themes."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from varl.evaluation.results import Evaluation

if TYPE_CHECKING:  # matplotlib takes seconds to import, and a run draws at its end alone
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Row = Mapping[str, float]
INK = "#123456"  # stands for the page's text colour until the SVG is written
COLOURS = ("#3b82f6", "#f97316", "#10b981", "#ec4899", "#8b5cf6", "#ca8a04", "#06b6d4", "#ef4444")
STYLE: Any = {  # matplotlib types the keys of rc_context one by one
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
}


@dataclass(frozen=True)
class Chart:
    """One plot: title, what it shows, and its metrics; a trailing * stands for every metric that begins that way."""

    title: str
    note: str
    metrics: tuple[str, ...]


CHARTS = (
    Chart("Reward", "mean over the images of an update", ("reward/total",)),
    Chart(
        "Reward spread",
        "standard deviation within a group, mean over groups: what the advantages are made of",
        ("reward_std",),
    ),
    Chart(
        "What the prefix decides",
        "part of the reward's variance that lies between prefixes, in prefix updates; near 0 their images teach little",
        ("prefix_share",),
    ),
    Chart("KL to the reference policy", "nats a token", ("kl",)),
    Chart("Entropy by scale", "nats a token, scales numbered from the coarsest", ("entropy/scale_*",)),
    Chart("Gradient norm", "before clipping", ("grad_norm",)),
    Chart("Gradient norm by scale", "of each scale's part of the loss", ("grad_norm/scale_*",)),
    Chart(
        "Clip ratio",
        "share of tokens whose probability ratio was clipped; 0 when every update is on-policy",
        ("clip_ratio/*",),
    ),
    Chart(
        "Time of an update",
        "seconds; generate and score are the workers' own, and overlap",
        ("timing/total", "timing/rollout", "timing/update", "timing/generate", "timing/score"),
    ),
)


DRIFT = Chart(
    "What the reward does not measure",
    "change of held-out images against the base's, same prompts and seeds; shares and contrast",
    ("eval/drift/dark", "eval/drift/saturated", "eval/drift/text_area", "eval/drift/text_contrast"),
)


def held_out_charts(measures: Sequence[str]) -> list[Chart]:
    """Charts of an evaluation's measures while training.

    What was read in one, every reward in one of its own, for their units differ.
    """
    note = "a fixed part of the held-out prompts, fixed seeds"
    words = tuple(f"eval/{name}" for name in ("word_accuracy", "ned") if name in measures)
    rewards = [name for name in measures if name.startswith("reward/") and not (words and name == "reward/ocr")]
    charts = [Chart("Held-out words while training", note, words)] if words else []
    shown = [
        Chart(f"Held-out {name.removeprefix('reward/')} while training", note, (f"eval/{name}",)) for name in rewards
    ]
    return [*charts, *shown, DRIFT]


def draw(chart: Chart, rows: Sequence[Row]) -> str | None:
    """SVG of one chart, or None where no row has any of its metrics."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    names = _names(chart.metrics, rows)
    if not names:
        return None
    with rc_context(STYLE | {"svg.hashsalt": chart.title}):
        figure = Figure(figsize=(4.2, 2.5), layout="constrained")
        axes = figure.add_subplot()
        labels = [_label(chart, name) for name in names]
        for name, label, colour in zip(names, labels, cycle(COLOURS), strict=False):
            _line(axes, *_series(rows, name), label, colour)
        axes.set_xlabel("update")
        axes.grid(alpha=0.2, color=INK, linewidth=0.6)
        if len(names) > 1:
            figure.legend(
                loc="outside lower center", frameon=False, fontsize=9, ncols=5 if max(map(len, labels)) < 5 else 3
            )
        return _svg(figure, chart.title)


def draw_histogram(before: Evaluation, after: Evaluation) -> str:
    """SVG of how many held-out prompts had which reward, mean over their images, before and after."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    sides = [
        [total / count for total, count in (one.shares["reward"] for one in side.prompts)] for side in (before, after)
    ]
    edges = np.histogram_bin_edges([value for side in sides for value in side], bins=16)
    title = "Reward by held-out prompt"
    with rc_context(STYLE | {"svg.hashsalt": title}):
        figure = Figure(figsize=(4.2, 2.5), layout="constrained")
        axes = figure.add_subplot()
        for values, label, colour in zip(sides, ("before", "after"), COLOURS, strict=False):
            axes.hist(values, edges.tolist(), color=colour, alpha=0.5, label=label)
        axes.set_xlabel("reward")
        axes.set_ylabel("prompts")
        figure.legend(loc="outside lower center", frameon=False, fontsize=9, ncols=2)
        return _svg(figure, title)


def smooth(values: npt.NDArray[np.float64], window: int) -> npt.NDArray[np.float64]:
    """Mean over the ``window`` values around each one, fewer at the ends; same length."""
    padded = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    low, high = np.maximum(index - window // 2, 0), np.minimum(index + window // 2 + 1, len(values))
    return np.asarray((padded[high] - padded[low]) / (high - low))


def _names(patterns: Iterable[str], rows: Sequence[Row]) -> list[str]:
    known = sorted({name for row in rows for name in row}, key=_natural)
    stems = [(pattern.removesuffix("*"), pattern.endswith("*")) for pattern in patterns]
    return [name for stem, open_end in stems for name in known if name == stem or (open_end and name.startswith(stem))]


def _natural(name: str) -> list[str | int]:
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def _label(chart: Chart, name: str) -> str:
    stem = next((metric.removesuffix("*") for metric in chart.metrics if metric.endswith("*")), "")
    return (name.removeprefix(stem) if stem else name.rpartition("/")[2]).replace("_", " ")


def _series(rows: Sequence[Row], name: str) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    pairs = [(row["update"], row[name]) for row in rows if name in row and np.isfinite(row[name])]
    table = np.array(pairs, dtype=np.float64).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def _line(
    axes: Axes, updates: npt.NDArray[np.float64], values: npt.NDArray[np.float64], label: str, colour: str
) -> None:
    window = len(values) // 12
    if window < 2:
        axes.plot(updates, values, color=colour, label=label, linewidth=1.8, marker="o", markersize=3)
        return
    axes.plot(updates, values, color=colour, alpha=0.25, linewidth=0.8)
    axes.plot(updates, smooth(values, window), color=colour, label=label, linewidth=1.8)


def _svg(figure: Figure, title: str) -> str:
    """The <svg> element alone, as wide as its container, in the page's text colour and font."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<style[^>]*>.*?</style>", "", text, count=1, flags=re.DOTALL)
    text = re.sub(r' (?:width|height)="[\d.]+pt"', "", text, count=2)
    text = re.sub(r' xmlns(?::\w+)?="[^"]*"', "", text).replace("xlink:href", "href")
    text = re.sub(r"font-family: [^;\"]*;? ?", "", text)
    return text.replace("<svg", f'<svg role="img" aria-label="{title}"', 1)
