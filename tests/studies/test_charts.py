"""The curves of the report."""

from __future__ import annotations

import re

import numpy as np
import pytest

from tests.support.report_rig import ROWS
from varl.studies.report.charts import CHARTS, Chart, draw, smooth


def chart(*metrics: str) -> Chart:
    return Chart("Title", "note", metrics)


Rows = list[dict[str, float]]


def lines(svg: str | None) -> list[list[tuple[float, float]]]:
    """Points of the drawn series: the coloured paths."""
    assert svg is not None
    drawn = re.findall(r'<path d="([^"]*)" clip-path[^>]*stroke: #[0-9a-f]{6}[^>]*>', svg)
    return [[(float(x), float(y)) for x, y in re.findall(r"[ML] ([-\d.]+) ([-\d.]+)", path)] for path in drawn]


def test_a_line_has_a_point_for_every_update_that_has_the_metric() -> None:
    rows: Rows = [{"update": u, **({"kl": float(u * u)} if u % 2 else {})} for u in range(20)]
    [points] = lines(draw(chart("kl"), rows))
    assert len(points) == 10
    xs, ys = np.array(points).T
    assert np.allclose(np.diff(xs), np.diff(xs)[0])
    heights = ys[0] - ys  # SVG's y points down
    assert np.allclose(heights / heights[-1], (np.arange(1, 20, 2) ** 2 - 1) / 360, atol=1e-6)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_left_out(bad: float) -> None:
    rows: Rows = [{"update": u, "kl": bad if u == 3 else 1.0 + u} for u in range(8)]
    [points] = lines(draw(chart("kl"), rows))
    assert len(points) == 7


def test_a_chart_without_its_metric_is_left_out() -> None:
    assert draw(chart("kl"), []) is None
    assert draw(chart("kl", "entropy/*"), [{"update": 0, "loss": 1.0, "klx": 2.0}]) is None


def test_svg_takes_the_colours_and_the_width_of_the_page() -> None:
    svg = draw(CHARTS[0], ROWS)
    assert svg is not None
    assert "currentColor" in svg
    assert "<style" not in svg  # it would hold for the whole page
    assert re.match(r'<svg role="img" aria-label="Reward" viewBox="[^"]*" version="1.1">', svg)


@pytest.mark.parametrize("window", [2, 3, 8])
def test_smooth_is_the_mean_of_the_neighbours(window: int) -> None:
    values = np.random.default_rng(0).normal(size=40)
    slow = [values[max(i - window // 2, 0) : i + window // 2 + 1].mean() for i in range(40)]
    assert np.allclose(smooth(values, window), slow)
