"""The two charts of docs/scale.md, as SVG."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib as mpl

from benchmarks.scale import assumptions as given
from benchmarks.scale.measured import Results
from benchmarks.scale.measured_tables import sleep, wave_rate
from benchmarks.scale.mix import Cluster, best_mix
from benchmarks.scale.simulation import ROOT, WORKERS

mpl.use("Agg")
from matplotlib import pyplot as plt

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#0072b2", "#d55e00", "#56b4e9", "#e69f00")  # told apart by colour-blind readers, and by their marks
MARKS = "osD^"
CLUSTERS = (8, 16, 32, 64, 128, 256, 512)


def write(results: Results) -> None:
    """Write docs/scale-simulation.svg (measured) and docs/scale-capacity.svg (computed)."""
    plt.rcParams.update({"svg.hashsalt": "varl", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    _stream(left, results)
    _updates(right, results)
    _save(figure, "scale-simulation")
    figure, axes = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
    _capacity(axes)
    _save(figure, "scale-capacity")


def _stream(axes: Axes, results: Results) -> None:
    for case, colour, mark in zip(results.cases("stream"), COLOURS, MARKS, strict=True):
        curve = results.curve("stream", case, "groups/s")
        axes.plot(list(curve), list(curve.values()), color=colour, marker=mark, label=case)
        axes.plot(WORKERS, [workers / sleep(case) for workers in WORKERS], ":", color=colour, linewidth=1)
    axes.plot([], [], ":", color="grey", label="ideal")
    _dress(axes, "Jobs always waiting (measured)", "fake workers", WORKERS)


def _updates(axes: Axes, results: Results) -> None:
    for case, colour, mark in zip(results.cases("updates"), COLOURS, MARKS, strict=False):
        curve = results.curve("updates", case, "groups/s")
        axes.plot(list(curve), list(curve.values()), color=colour, marker=mark, label=case)
        axes.plot(WORKERS, [wave_rate(case, workers) for workers in WORKERS], ":", color=colour, linewidth=1)
    axes.plot([], [], ":", color="grey", label="ideal: whole waves")
    _dress(axes, "Update after update (measured)", "fake workers", WORKERS)


def _capacity(axes: Axes) -> None:
    rates = {
        "16 prompts": [_rate(gpus, given.PROMPTS) for gpus in CLUSTERS],
        "2 prompts a GPU": [_rate(gpus, 2 * gpus) for gpus in CLUSTERS],
        "2 prompts a GPU, rollout beside the update": [_rate(gpus, 2 * gpus, overlap=True) for gpus in CLUSTERS],
    }
    for (label, values), colour, mark in zip(rates.items(), COLOURS, MARKS, strict=False):
        axes.plot(CLUSTERS, values, color=colour, marker=mark, label=label)
    low, high = ([_rate(gpus, 2 * gpus, rates=share) for gpus in CLUSTERS] for share in (given.PUBLISHED, given.HIGH))
    axes.fill_between(
        CLUSTERS, low, high, color=COLOURS[1], alpha=0.15, label="2 prompts a GPU, published to high rates"
    )
    _dress(axes, "Groups per second at the planned rates (computed)", "H100s", CLUSTERS)


def _rate(gpus: int, prompts: int, rates: given.Rates = given.PLANNED, overlap: bool = False) -> float:
    return best_mix(Cluster(gpus, prompts, rates=rates, overlap=overlap)).groups_per_second


def _dress(axes: Axes, title: str, label: str, ticks: tuple[int, ...]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.set(title=title, xlabel=label, ylabel="groups per second")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8)


def _save(figure: plt.Figure, name: str) -> None:  # type: ignore[name-defined]
    figure.savefig(ROOT / "docs" / f"{name}.svg", metadata={"Date": None})
    plt.close(figure)
