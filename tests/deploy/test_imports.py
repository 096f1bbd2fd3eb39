"""Who may import whom: no cycles, type-checking imports included, and one direction of dependencies.

Files belong in sub-packages, not side by side in trainer/ and tests/.
"""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from tests.support.import_graph import graph, imported, modules, reachable
from tests.support.paths import ROOT

NETWORK = {"grpc", "redis", "httpx", "requests", "urllib", "socket", "aiohttp", "uvicorn", "fastapi", "http"}
MOST_TRAINER_FILES = 12


def cycles(edges: Mapping[str, frozenset[str]]) -> list[list[str]]:
    """Groups of modules that reach one another."""
    reach = {name: reachable(edges, name) for name in edges}
    groups = {
        frozenset(other for other in reach[name] if name in reach[other]) for name in edges if name in reach[name]
    }
    return sorted(map(sorted, groups))


def test_no_module_imports_itself_by_way_of_others() -> None:
    assert cycles(graph()) == []


def test_a_cycle_would_be_found() -> None:
    edges = {"a": frozenset({"b"}), "b": frozenset({"c"}), "c": frozenset({"b"}), "d": frozenset("a")}
    assert cycles(edges) == [["b", "c"]]
    assert len(graph()) > 100 and "varl.policy.base" in graph()["varl.policy.nextflow.policy"]


@pytest.mark.parametrize(
    ("package", "allowed"),
    [
        ("varl.services.serving", {"varl.services.serving", "varl.services", "varl.launch", "varl.metadata"}),
        ("varl.launch", {"varl.launch"}),
        ("varl.policy", {"varl.policy"}),
    ],
)
def test_packages_know_only_what_lies_below_them(package: str, allowed: set[str]) -> None:
    strangers = [
        f"{name} imports {other}" for name in inside(package) for other in graph()[name] if not within(other, allowed)
    ]
    assert strangers == []


@pytest.mark.parametrize("service", ["ocr", "hpsv3", "gateway"])
def test_reward_services_know_no_policy_no_trainer_and_no_other_service(service: str) -> None:
    own = f"varl.services.{service}"
    allowed = {own, "varl.services.serving", "varl.launch", "varl.metadata"}
    assert [
        f"{name} imports {other}" for name in inside(own) for other in graph()[name] if not within(other, allowed)
    ] == []


@pytest.mark.parametrize("package", ["varl.policy", "varl.trainer.objectives"])
def test_policy_and_objectives_know_no_network(package: str) -> None:
    names = {name: imported(modules()[name], package) for name in inside(package)}
    assert [
        f"{name} imports {other}"
        for name, others in names.items()
        for other in others
        if other.partition(".")[0] in NETWORK
    ] == []


def inside(package: str) -> list[str]:
    return [name for name in graph() if within(name, {package})]


def within(name: str, packages: set[str]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def test_rooms_instead_of_corridors() -> None:
    assert len([*(ROOT / "trainer").glob("*.py")]) <= MOST_TRAINER_FILES
    assert [path.name for path in (ROOT / "tests").glob("*.py")] == ["conftest.py"]


def test_no_test_imports_a_test() -> None:
    files = sorted((ROOT / "tests").rglob("*.py"))
    found = [(path.relative_to(ROOT), name) for path in files for name in imported(path, "tests") if is_test(name)]
    assert found == []


def is_test(name: str) -> bool:
    return name.startswith("tests.") and any(part.startswith("test_") for part in name.split(".")[:-1])
