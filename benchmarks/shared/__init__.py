"""What the benchmarks share: a table on the screen and a JSON file that names the machine."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from varl.launch.machine import describe_machine

RESULTS = Path(__file__).resolve().parent.parent / "results"
Value = str | int | float
Row = Mapping[str, Value]


def report(name: str, settings: Row, rows: Sequence[Row], device: str = "cpu") -> None:
    """Print ``rows`` and write them, with the settings and the machine, to benchmarks/results/<name>.json."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    machine = describe_machine(device).model_dump()
    result = {
        "machine": machine,
        "settings": settings,
        "rows": [{key: _rounded(value) for key, value in row.items()} for row in rows],
    }
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(
        f"\n{machine['cpu']}, {machine['cores']} cores; "
        f"{', '.join(f'{key} {value}' for key, value in settings.items())}"
    )
    print(table(rows))
    print(f"written to {path}")


def table(rows: Sequence[Row]) -> str:
    """Columns as wide as their widest cell, the first one left-aligned; all rows have the keys of the first."""
    lines = [list(rows[0]), *([_cell(row[key]) for key in rows[0]] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]) for line in lines)


def _rounded(value: Value) -> Value:
    return round(value, 4) if isinstance(value, float) else value


def _cell(value: Value) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)
