"""Which tests start processes, and which files begin first.

The former is found by reading what a test and its fixtures call, so that nobody has to keep marks up to date.
Names in the code of a function are looked up in the function's module; what they lead to is read in the same way, as
far as it is code of this repository. What is reached by attributes of objects alone is not seen, so classes count with
all of their methods.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Iterator
from types import CodeType, FunctionType, ModuleType

import pytest

STARTERS = {"subprocess", "multiprocessing"}  # modules
CALLS = {"create_subprocess_exec", "create_subprocess_shell", "ProcessPoolExecutor"}
OURS = ("tests", "varl", "chaos", "benchmarks", "clients", "services", "trainer")


def mark_processes(items: list[pytest.Item]) -> None:
    """Give the marker ``process`` to every test that may start one."""
    for item in items:
        if isinstance(item, pytest.Function) and any(map(starts, functions_of(item))):
            item.add_marker(pytest.mark.process)


# Files of half a minute and more, the longest first: the last file of a run is a short one, and no process is idle.
LONGEST = (
    "e2e/test_demo.py", "chaos/test_chaos.py", "serving/test_lifecycle.py", "cli/test_wheel.py",
    "rollout/test_optional_reward.py", "trainer/test_resume_kill.py", "rollout/test_worker.py", "trainer/test_size.py",
    "trainer/test_disk.py", "studies/test_study.py", "gateway/test_process.py", "trainer/test_staleness_run.py",
    "rollout/test_missing_weights.py", "trainer/test_run.py", "reward/test_own_reward.py", "chaos/test_soak.py",
    "trainer/test_published_models.py", "docs/test_commands.py", "trainer/test_recipe.py", "trainer/test_rank_death.py",
    "evaluation/test_benchmarks.py", "serving/test_grpc_hostile.py", "hpsv3/test_service.py", "ocr/test_engine.py",
)  # fmt: skip


def longest_first(items: list[pytest.Item]) -> None:
    """Sort tests by their files, those of LONGEST before all others; within a file the order stays."""
    ranks = {name: rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get("/".join(item.path.parts[-2:]), len(ranks)))


def functions_of(item: pytest.Function) -> Iterator[object]:
    """The test itself and its fixtures."""
    yield item.function
    for definitions in item._fixtureinfo.name2fixturedefs.values():
        yield from (definition.func for definition in definitions)


def starts(thing: object) -> bool:
    """Whether a function or class may start a process."""
    seen, ahead = set[int](), [thing]
    while ahead:
        one = ahead.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        found = meant_by(one)
        if found is None:
            return True
        ahead += found
    return False


@functools.cache
def meant_by(thing: object) -> list[object] | None:
    """What a thing of this repository names in its code; None where that starts processes."""
    if isinstance(thing, type) and is_ours(thing.__module__):
        return [member for member in vars(thing).values() if isinstance(unbound(member), FunctionType)]
    function = unbound(thing)
    if not isinstance(function, FunctionType) or not is_ours(function.__module__):
        return []
    names = {name for code in codes(function.__code__) for name in code.co_names}
    found = [function.__globals__[name] for name in names if name in function.__globals__]
    forks = {"os", "fork"} <= names  # a cache forks as well
    return None if forks or names & CALLS or any(map(is_starter, found)) else [one for one in found if reads(one)]


def unbound(member: object) -> object:
    """The function inside a method, a property or whatever wraps one; other things as they are."""
    member = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
    return inspect.unwrap(member) if callable(member) else member


def codes(code: CodeType) -> Iterator[CodeType]:
    """A function's code and that of the functions inside it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from codes(constant)


def is_starter(thing: object) -> bool:
    module = thing.__name__ if isinstance(thing, ModuleType) else getattr(thing, "__module__", None)
    return isinstance(module, str) and module.partition(".")[0] in STARTERS


def is_ours(module: str | None) -> bool:
    return module is not None and module.partition(".")[0] in OURS and module in sys.modules


def reads(thing: object) -> bool:
    return isinstance(thing, type) or isinstance(unbound(thing), FunctionType)
