"""Trainers of two ranks, one run after another, of which one rank may die by SIGKILL at a named call.

Takes [RECIPE RANK:PLACE …] with PLACE as in ``killing``, or RECIPE - for a run that is left alone; the rank "all"
sends SIGTERM to each rank there. Ranks are forked, so
that torch is imported once, and have torchrun's variables. The exit statuses of each run's ranks are printed as JSON.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from typing import Any

import torch

from tests.support.killing import kill_at
from varl.launch.ports import reserve_port
from varl.trainer.__main__ import main

SIZE = 2


def fork_rank(rank: int, port: int, recipe: str, death: str) -> int:
    """The process of a rank that trains with --resume."""
    child = os.fork()
    if child:
        return child
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= address | {"RANK": str(rank), "WORLD_SIZE": str(SIZE), "LOCAL_RANK": str(rank)}
    dying, _, place = death.partition(":")
    status: Any = 1
    try:
        if dying == str(rank):
            kill_at(place)
        if dying == "all":
            kill_at(place, signal.SIGTERM)
        status = main([recipe, "--resume"])
    except SystemExit as error:
        status = error.code
    except BaseException:
        traceback.print_exc()
    sys.stderr.flush()
    os._exit(int(status or 0))


def run_ranks(recipe: str, death: str) -> list[int]:
    """Exit statuses of the ranks of one run."""
    port = reserve_port()
    children = [fork_rank(rank, port, recipe, death) for rank in range(SIZE)]
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.stdout.write(
        json.dumps([run_ranks(recipe, death) for recipe, death in zip(sys.argv[1::2], sys.argv[2::2], strict=True)])
    )
