"""Trainers that die by SIGKILL at a named call, one after another; takes RECIPE [MODULE:NAME:COUNT:before|after …].

Every trainer is a process of its own (forked, so that torch is imported once) and goes on with --resume; after the
deaths that are named comes one that is left alone. The exit statuses are printed as JSON.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
from typing import Any

from varl.trainer.__main__ import main


def kill_at(place: str, number: signal.Signals = signal.SIGKILL) -> None:
    """Replace a function by itself and, at its COUNT-th call, a signal to this process, its end by default."""
    module, name, count, when = place.split(":")
    owner: Any = importlib.import_module(module)
    *path, last = name.split(".")
    for part in path:
        owner = getattr(owner, part)
    real, calls = getattr(owner, last), 0

    def counted(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        nonlocal calls
        calls += 1
        if calls == int(count) and when == "before":
            os.kill(os.getpid(), number)
        result = real(*args, **kwargs)
        if calls == int(count):
            os.kill(os.getpid(), number)
        return result

    setattr(owner, last, counted)


def one_trainer(recipe: str, place: str) -> int:
    """Exit status of a trainer in a child process; negative: the signal that killed it."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if place:
        kill_at(place)
    os._exit(main([recipe, "--resume"]))


if __name__ == "__main__":
    statuses = [one_trainer(sys.argv[1], place) for place in [*sys.argv[2:], ""]]
    sys.stdout.write(json.dumps(statuses))
