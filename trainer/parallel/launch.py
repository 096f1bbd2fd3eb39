"""How a trainer finds out whether it is one of many: by torchrun's variables."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from varl.trainer.parallel.ranks import Ranks, joined, place
from varl.trainer.recipe.config import Recipe
from varl.trainer.recipe.sections import ParallelSettings


@contextmanager
def this_run(recipe: Recipe) -> Iterator[Ranks | None]:
    """The processes of this run for the length of a block; None where torchrun did not start this one.

    Raises:
        ValueError: the recipe has settings that only a run under torchrun obeys, or torchrun's variables are wrong.
    """
    found = place()
    if found is None:
        if recipe.parallel != ParallelSettings():
            raise ValueError("parallel: its settings hold under torchrun alone, which did not start this process")
        yield None
        return
    with joined(found, recipe.run.device) as ranks:
        yield ranks
