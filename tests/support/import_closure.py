"""Which files of the repository a module imports, itself or by others, wherever in a file an import stands."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests.support.paths import ROOT

PACKAGE = ROOT / "src" / "varl"


def closure(module: str) -> set[Path]:
    """Real paths of all files of varl that a module needs, below the repository."""
    seen, ahead = set[str](), [module]
    while ahead:
        name = ahead.pop()
        path = _file(name)
        if name not in seen and path is not None:
            seen.add(name)
            ahead += [*_imported(path), *_packages(name)]
    return {path.resolve().relative_to(ROOT) for name in seen if (path := _file(name)) is not None}


def _file(module: str) -> Path | None:
    place = PACKAGE.joinpath(*module.split(".")[1:])
    found = [path for path in (place.with_suffix(".py"), place / "__init__.py") if path.is_file()]
    return found[0] if found and module.split(".")[0] == "varl" else None


def _packages(module: str) -> Iterable[str]:
    parts = module.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts))]


def _imported(path: Path) -> Iterator[str]:
    for node in _run(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _run(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node but those that are there for type checkers alone."""
    yield tree
    for child in ast.iter_child_nodes(tree):
        if not (isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)):
            yield from _run(child)
