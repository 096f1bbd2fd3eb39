"""How a trainer finds out whether it is one of many: by torchrun's variables."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from varl.trainer.parallel.ranks import Ranks, joined, place
from varl.trainer.recipe.config import Recipe
from varl.trainer.recipe.sections import ParallelSettings


class LaunchError(ValueError):
    """The recipe has settings that hold under torchrun alone; no second attempt will mend that."""


@contextmanager
def this_run(recipe: Recipe) -> Iterator[Ranks | None]:
    """The processes of this run for the length of a block; None where torchrun did not start this one.

    Raises:
        LaunchError: the recipe has settings that hold under torchrun alone.
        ValueError: torchrun's variables are wrong.
    """
    found = place()
    if found is None:
        if recipe.parallel != ParallelSettings():
            raise LaunchError("parallel: its settings hold under torchrun alone, which did not start this process")
        yield None
        return
    with joined(found, recipe.run.device) as ranks:
        yield ranks
