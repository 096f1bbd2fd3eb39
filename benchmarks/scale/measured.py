"""The rows of benchmarks/results/scale.json: how they are written and looked up."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.shared import RESULTS, Row

PATH = RESULTS / "scale.json"


def line(part: str, case: str, value: float, unit: str, workers: int = 0) -> Row:
    """One measurement; ``workers`` is 0 where their number plays no part."""
    return {"part": part, "case": case, "workers": workers, "value": float(value), "unit": unit}


@dataclass(frozen=True)
class Results:
    """What was measured, and on which machine."""

    machine: Row
    settings: Row
    rows: Sequence[Row]

    @classmethod
    def read(cls, path: Path = PATH) -> Results:
        """Read the file that ``python -m benchmarks.scale simulate`` left."""
        return cls(**json.loads(path.read_text(encoding="utf-8")))

    def value(self, part: str, case: str, unit: str, workers: int = 0) -> float:
        """The one value that answers to all four. Raises LookupError where none or several do."""
        found = [
            row["value"]
            for row in self.rows
            if (row["part"], row["case"], row["unit"], row["workers"]) == (part, case, unit, workers)
        ]
        if len(found) != 1:
            raise LookupError(f"{len(found)} rows for {part}, {case}, {unit}, {workers} workers")
        return float(found[0])

    def curve(self, part: str, case: str, unit: str) -> dict[int, float]:
        """Values by number of workers."""
        wanted = {"part": part, "case": case, "unit": unit}
        rows = [row for row in self.rows if row.items() >= wanted.items()]
        return {int(row["workers"]): float(row["value"]) for row in rows}

    def cases(self, part: str) -> list[str]:
        """The cases of a part, in the order of the file."""
        return list(dict.fromkeys(str(row["case"]) for row in self.rows if row["part"] == part))
