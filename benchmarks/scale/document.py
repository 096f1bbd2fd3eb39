"""The tables inside docs/scale.md: found by their markers, compared or rewritten."""

from __future__ import annotations

import re

from benchmarks.scale import measured_tables, tables
from benchmarks.scale.measured import Results
from benchmarks.scale.simulation import ROOT

PATH = ROOT / "docs" / "scale.md"
BLOCK = re.compile(r"(<!-- table: ([a-z-]+) -->\n)(.*?)(\n<!-- end -->)", re.DOTALL)


def computed(results: Results) -> dict[str, str]:
    """Every table as Markdown, by name."""
    found = {name: make() for name, make in tables.TABLES.items()} | {
        name: make(results) for name, make in measured_tables.TABLES.items()
    }
    return {name: tables.markdown(table) for name, table in found.items()}


def present(text: str) -> dict[str, str]:
    """The tables that a text holds, by name."""
    return {match[2]: match[3] for match in BLOCK.finditer(text)}


def write(results: Results) -> None:
    """Put the computed tables into the document and print them. Raises KeyError on a marker of no table."""
    found = computed(results)
    text = BLOCK.sub(lambda match: f"{match[1]}{found[match[2]]}{match[4]}", PATH.read_text(encoding="utf-8"))
    PATH.write_text(text, encoding="utf-8")
    print("\n\n".join(f"{name}\n{table}" for name, table in found.items()))
