"""The chart of a study: the measure by scored images, a line an arm, with the spread of its seeds."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import numpy as np

from varl.studies.report.charts import COLOURS
from varl.studies.study.plan import Study
from varl.studies.study.results import RunResult, runs_by_arm


def draw_curves(study: Study, runs: Sequence[RunResult], controls: Mapping[str, Mapping[str, float]]) -> str:
    """SVG of evaluations while training: mean over seeds, their range as a band, the best of the controls as a line."""
    from matplotlib import rc_context  # here, because a study draws at its end alone
    from matplotlib.figure import Figure

    with rc_context({"svg.hashsalt": study.name, "font.size": 10}):
        figure = Figure(figsize=(8, 4.5), layout="constrained")
        axes = figure.subplots()
        of_arm = runs_by_arm(runs)
        for index, (name, arm) in enumerate(study.arms.items()):
            images, values = curve_over_seeds(of_arm.get(name, []), f"eval/{study.measure}")
            if len(images):
                colour = COLOURS[index % len(COLOURS)]
                axes.plot(images, values.mean(0), color=colour, label=f"{arm.title or name} ({len(values)} seeds)")
                axes.fill_between(images, values.min(0), values.max(0), color=colour, alpha=0.15, linewidth=0)
        best = max(((figures.get(study.measure, -np.inf), name) for name, figures in controls.items()), default=None)
        if best is not None:
            axes.axhline(best[0], color="gray", linestyle="--", linewidth=1, label=f"base, {best[1]}")
        axes.set_xlabel("scored images")
        axes.set_ylabel(study.measure.replace("_", " "))
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
        return text.getvalue()


def curve_over_seeds(
    runs: Sequence[RunResult], metric: str
) -> tuple[np.ndarray[tuple[int], np.dtype[np.float64]], np.ndarray[tuple[int, int], np.dtype[np.float64]]]:
    """Images [N] at which every run has the metric, and its values [runs, N]."""
    tables = [{point.images: point.metrics[metric] for point in run.curve if metric in point.metrics} for run in runs]
    common = sorted(set.intersection(*(set(one) for one in tables))) if tables else []
    values = np.array([[one[image] for image in common] for one in tables], np.float64).reshape(
        len(tables), len(common)
    )
    return np.array(common, np.float64), values
