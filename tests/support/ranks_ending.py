"""A rank that has nothing to train: it meets the others, does what it is told and ends as a trainer does.

The one argument says how rank 0 ends: "done", "raise", or a status that it exits with.
"""

from __future__ import annotations

import sys
import time
from functools import partial

from varl.trainer.parallel import ranks as ranks_module
from varl.trainer.parallel.launch import end_with
from varl.trainer.parallel.ranks import joined, place


def work(end: str) -> int:
    """Returns 0; raises SystemExit where rank 0 is told to."""
    ranks_module.BEAT_S = 0.1
    found = place()
    assert found is not None
    with joined(found, "cpu") as ranks:
        if not ranks.leads:
            ranks.follow({})
            return 0
        time.sleep(0.5)  # several beats of the watch
        if end == "raise":
            raise ValueError("what nobody expected")
        if end != "done":
            raise SystemExit(int(end))
    return 0


if __name__ == "__main__":
    end_with(partial(work, sys.argv[1]))
