"""Which modules of varl import which, read from their files."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

from tests.support.paths import ROOT

PACKAGES = ROOT / "src" / "varl"


@cache
def modules() -> Mapping[str, Path]:
    """Files of varl by the names of their modules; what protoc generates is left out.

    Links are followed one by one: rglob does not.
    """
    roots = [
        (PACKAGES, "varl"),
        *((entry, f"varl.{entry.name}") for entry in sorted(PACKAGES.iterdir()) if entry.is_dir()),
    ]
    found: dict[str, Path] = {}
    for folder, package in roots:
        for path in folder.glob("*.py") if package == "varl" else folder.resolve().rglob("*.py"):
            parts = path.relative_to(folder if package == "varl" else folder.resolve()).with_suffix("").parts
            found[".".join([package, *(part for part in parts if part != "__init__")])] = path
    return {name: path for name, path in found.items() if not name.startswith("varl.v1")}


def imported(path: Path, package: str) -> Iterator[str]:
    """Names that a file imports anywhere in it, as they could be modules.

    The module itself and each name taken from it.
    """
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(
                [*package.split(".")[: len(package.split(".")) + 1 - node.level], *filter(None, [node.module])]
            )
            source = base if node.level else str(node.module)
            yield from (source, *(f"{source}.{alias.name}" for alias in node.names))


@cache
def graph() -> Mapping[str, frozenset[str]]:
    """For each module of varl those of varl that it imports, type checking's included."""
    known = modules()
    packages = {name: name if path.name == "__init__.py" else name.rpartition(".")[0] for name, path in known.items()}
    return {name: frozenset(imported(path, packages[name])) & known.keys() - {name} for name, path in known.items()}


def reachable(edges: Mapping[str, frozenset[str]], start: str) -> set[str]:
    seen, ahead = set[str](), [*edges[start]]
    while ahead:
        name = ahead.pop()
        if name not in seen:
            seen.add(name)
            ahead += edges[name]
    return seen
