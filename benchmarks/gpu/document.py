"""The table of docs/gpu.md, out of benchmarks/results/gpu.json."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- gpu figures: make bench-gpu writes what follows -->", "<!-- end -->"


def write_table(found: Mapping[str, Any], page: Path) -> None:
    """Replace what stands between the page's two marks by the figures; raises ValueError where a mark is missing."""
    text = page.read_text(encoding="utf-8")
    before, mark, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not mark or not end:
        raise ValueError(f"{page} lacks the marks {BEGIN} and {END}")
    page.write_text(f"{before}{BEGIN}\n{table(found)}\n{END}{after}", encoding="utf-8")


def table(found: Mapping[str, Any]) -> str:
    """A row for every figure."""
    machine = found["parts"].get("matrix_rate", {})
    lines = [
        f"{machine.get('name', found['device'])}, torch {machine.get('torch', '?')}, sizes: {found['size']}.",
        "",
        "| part | figure | value |",
        "|---|---|---|",
    ]
    for part, figures in found["parts"].items():
        lines += [f"| {part} | {name} | {_cell(value)} |" for name, value in figures.items()]
    return "\n".join(lines)


def _cell(value: object) -> str:
    if isinstance(value, dict):
        return "; ".join(f"{name} {_cell(one)}" for name, one in value.items()).replace("|", "/")
    return f"{value:.3g}" if isinstance(value, float) else str(value)
