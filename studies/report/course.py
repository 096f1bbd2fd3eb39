"""The sample grids that a run left while it trained, for its report."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

SAMPLES = "samples"
MOST = 4  # grids: at the start, after one and two thirds, at the end
QUALITY = 85  # of JPEG, which is a tenth of the PNG that the trainer leaves


@dataclass(frozen=True)
class SampleGrid:
    """One grid of samples. jpeg: Base64."""

    update: int
    jpeg: str


def grids(directory: Path) -> list[SampleGrid]:
    """Up to four of the run's grids, evenly spread, the first and the last among them."""
    files = {int(path.stem): path for path in sorted((directory / SAMPLES).glob("*.png")) if path.stem.isdigit()}
    return [SampleGrid(update, _jpeg(files[update])) for update in spread(sorted(files), MOST)]


def spread(values: list[int], most: int) -> list[int]:
    """At most ``most`` of the sorted values, nearest to evenly spaced ones; without repeats."""
    if len(values) <= most:
        return values
    low, high = values[0], values[-1]
    wanted = [low + (high - low) * step / (most - 1) for step in range(most)]
    return sorted({min(values, key=lambda value: abs(value - point)) for point in wanted})


def _jpeg(path: Path) -> str:
    buffer = io.BytesIO()
    with Image.open(path, formats=["PNG"]) as image:
        image.convert("RGB").save(buffer, format="JPEG", quality=QUALITY)
    return base64.b64encode(buffer.getvalue()).decode()
