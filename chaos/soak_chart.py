"""The samples of a soak as one SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

PANELS = {
    "rss_mib": "memory, MiB",
    "files": "open files",
    "threads": "threads",
    "in_hand": "in hand",
    "used_mib": "used by Redis, MiB",
}


def write_chart(series: Mapping[str, Sequence[float]], file: Path) -> None:
    """A panel for each quantity with a line for each part, over minutes.

    The half that slopes are taken from is shaded.
    """
    minutes = np.asarray(series["seconds"]) / 60
    shown = {
        quantity: title for quantity, title in PANELS.items() if any(name.endswith(f" {quantity}") for name in series)
    }
    with rc_context(
        {"svg.fonttype": "none", "svg.hashsalt": "soak", "axes.spines.top": False, "axes.spines.right": False}
    ):
        figure = Figure(figsize=(9, 2.1 * len(shown)), layout="constrained")
        panels = figure.subplots(len(shown), sharex=True, squeeze=False)[:, 0]
        for axes, (quantity, title) in zip(panels, shown.items(), strict=True):
            for name, values in series.items():
                if name.endswith(f" {quantity}"):
                    axes.plot(minutes, values, label=name.partition(" ")[0], linewidth=1)
            axes.axvspan(minutes[len(minutes) // 2], minutes[-1], alpha=0.08)
            axes.set_ylabel(title)
            axes.set_ylim(bottom=0)
            axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
        panels[-1].set_xlabel("minutes")
        figure.savefig(file, format="svg", metadata={"Date": None})
