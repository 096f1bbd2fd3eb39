"""One line of the result: what was measured, on which server, and the bar that it is compared with."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.shared import Row

AT_LEAST, AT_MOST = "at least", "at most"


def line(measurement: str, server: str, value: float, unit: str, bar: tuple[str, float] | None = None) -> Row:
    """A row; ``bar``: AT_LEAST or AT_MOST, and the number."""
    row: Row = {"measurement": measurement, "server": server, "value": value, "unit": unit}
    if bar is None:
        return {**row, "bar": "", "holds": ""}
    side, number = bar
    holds = value >= number if side == AT_LEAST else value <= number
    return {**row, "bar": f"{side} {number:g}", "holds": "yes" if holds else "NO"}


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that ``percent`` of all do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]
