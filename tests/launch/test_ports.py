"""A reserved port belongs only to the process that reserved it.

No test or tool takes a port from the system and closes it.
"""

from __future__ import annotations

import ast
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.support.paths import PYTHONPATH, ROOT
from varl.launch.ports import candidates, reserve_port

IN_ANOTHER_PROCESS = "from varl.launch.ports import reserve_port; print(*[reserve_port() for _ in range(20)])"


def test_reserved_ports_are_different_and_never_the_systems() -> None:
    ports = [reserve_port() for _ in range(20)]
    assert len(set(ports)) == 20
    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert listener.getsockname()[1] not in candidates()
    assert set(ports) <= set(candidates())


def test_processes_get_different_ports() -> None:
    command = [sys.executable, "-c", IN_ANOTHER_PROCESS]
    others = subprocess.run(
        command, env={"PYTHONPATH": PYTHONPATH}, check=True, capture_output=True, text=True
    ).stdout.split()
    mine = {reserve_port() for _ in range(20)}
    assert len(others) == 20 and not mine & set(map(int, others))


def test_a_port_that_somebody_listens_on_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", reserve_port())) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setattr("varl.launch.ports.candidates", lambda: [port])
        monkeypatch.setattr(
            "varl.launch.ports._reserve", lambda port: True
        )  # as where the listener is no program of ours
        with pytest.raises(OSError, match="no port"):
            reserve_port()


def test_nothing_picks_a_port_of_the_system_to_bind_it_later() -> None:
    files = [
        path
        for folder in ("tests", "benchmarks", "chaos", "src/varl")
        for path in sorted((ROOT / folder).rglob("*.py"))
    ]
    found = [f"{path.relative_to(ROOT)}: {name}" for path in files for name in picks(path.read_text(encoding="utf-8"))]
    assert not found, "bind port 0 and ask the server which one it is, or take reserve_port()"


def test_the_rule_sees_what_it_is_for() -> None:
    assert [*picks("def f():\n with create_server(('', 0)) as s:\n  return s.getsockname()[1]")] == ["f"]
    assert [*picks("def f():\n s.bind(('', 0))\n p = s.getsockname()[1]\n s.close()\n return p")] == ["f"]
    assert not [*picks("def f():\n with create_server(('', 0)) as s:\n  yield s.getsockname()[1]")]


def picks(source: str) -> Iterator[str]:
    """Functions that bind port 0 and return its number, when the socket is closed or its owner is unknown."""
    for function in ast.walk(ast.parse(source)):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            inside = [*ast.walk(function)]
            asks = any(isinstance(node, ast.Attribute) and node.attr == "getsockname" for node in inside)
            returns = any(isinstance(node, ast.Return) and node.value is not None for node in inside)
            if asks and returns and any(map(binds_any_port, inside)):
                yield function.name


def binds_any_port(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Tuple)
        and len(node.elts) == 2
        and isinstance(last := node.elts[1], ast.Constant)
        and last.value == 0
    )
