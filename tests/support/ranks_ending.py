"""A rank that has nothing to train: it meets the others, does what it is told and ends as a trainer does.

The one argument says how rank 0 ends: "done", or a status that it exits with.
"""

from __future__ import annotations

import sys
from functools import partial

from varl.trainer.parallel.launch import end_with
from varl.trainer.parallel.ranks import joined, place


def work(end: str) -> int:
    """Returns 0; raises SystemExit where rank 0 is told to."""
    found = place()
    assert found is not None
    with joined(found, "cpu") as ranks:
        if not ranks.leads:
            ranks.follow({})
        elif end != "done":
            raise SystemExit(int(end))
    return 0


if __name__ == "__main__":
    end_with(partial(work, sys.argv[1]))
