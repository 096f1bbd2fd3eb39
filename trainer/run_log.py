"""Metrics of a run: one JSON object a line in metrics.jsonl, and TensorBoard events."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from torch.utils.tensorboard.writer import SummaryWriter

from trainer.durable import write_durably

METRICS_FILE = "metrics.jsonl"


class RunLog:
    """Writes the metrics of a run directory from update ``first`` on; whatever an earlier, longer attempt wrote after it is dropped."""

    def __init__(self, directory: Path, first: int) -> None:
        path = directory / METRICS_FILE
        kept = [line for line in read_lines(path) if json.loads(line)["update"] < first]
        write_durably(path, "".join(f"{line}\n" for line in kept))
        self._lines = path.open("a", encoding="utf-8", buffering=1)
        self._events = SummaryWriter(str(directory / "tb"), purge_step=first)

    def write(self, update: int, metrics: Mapping[str, float]) -> None:
        """Add the metrics of one update; JSON has no NaN, so what is not finite stands there as null."""
        finite = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        self._lines.write(json.dumps({"update": update, **finite}) + "\n")
        for name, value in metrics.items():
            self._events.add_scalar(name, value, update)

    def sync(self) -> None:
        """Have all lines on the disk before a checkpoint that comes after them."""
        os.fsync(self._lines.fileno())

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._lines.close()
        self._events.close()


def read_lines(path: Path) -> list[str]:
    """Whole lines of a metrics file; a line cut off by a crash is left out, a missing file has none."""
    if not path.exists():
        return []
    return [line.rstrip("\n") for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]
