"""How a trainer finds out whether it is one of many: by torchrun's variables."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

import torch

from varl.trainer.parallel.ranks import Ranks, joined, place
from varl.trainer.recipe.config import Recipe
from varl.trainer.recipe.sections import ParallelSettings


class LaunchError(ValueError):
    """The recipe has settings that hold under torchrun alone, or not there; no second attempt will mend that."""


@contextmanager
def this_run(recipe: Recipe) -> Iterator[Ranks | None]:
    """The processes of this run for the length of a block; None where torchrun did not start this one.

    Raises:
        LaunchError: the recipe has settings that hold under torchrun alone, or names one device for all ranks.
        ValueError: torchrun's variables are wrong.
    """
    found = place()
    if found is None:
        if recipe.parallel != ParallelSettings():
            raise LaunchError("parallel: its settings hold under torchrun alone, which did not start this process")
        yield None
        return
    device = torch.device(recipe.run.device)
    if device.index is not None:
        raise LaunchError(f"run.device: {device} is one device for all ranks; set {device.type}, and each has its own")
    with joined(found, recipe.run.device) as ranks:
        yield ranks


def end_with(work: Callable[[], int]) -> NoReturn:
    """Do a process's work and end it with the status that the work returns or exits with.

    Where torchrun started it, it ends without Python's own clearing up: a thread that still waits for another rank
    (varl.trainer.parallel.ranks.Watch) would turn that into SIGABRT. Files and services are closed by the work itself.
    """
    if "RANK" not in os.environ:
        sys.exit(work())
    try:
        status = work()
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
        status = 1
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
