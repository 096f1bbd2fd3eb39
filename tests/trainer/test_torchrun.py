"""How processes end that torchrun started: by their own status, and never by a signal."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from tests.support.paths import PYTHONPATH, ROOT

RANKS = 4


def launched(end: str) -> tuple[int, str]:
    """torchrun's status, and what it says, of ranks that end so."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(RANKS)]
    environment = os.environ | {"PYTHONPATH": PYTHONPATH, "OMP_NUM_THREADS": "1"}
    given = [*command, "--standalone", "-m", "tests.support.ranks_ending", end]
    done = subprocess.run(given, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stderr


@pytest.mark.parametrize("attempt", range(2))  # without a wait for the others each failed at least every second time
def test_ranks_that_are_done_end_with_status_0(attempt: int) -> None:
    status, said = launched("done")
    assert status == 0, said[-3000:]


@pytest.mark.parametrize("end", ["3", "raise"])
def test_rank_0_ends_with_its_own_status_and_the_others_follow_it(end: str) -> None:
    status, said = launched(end)
    assert (end == "raise") == ("ValueError: what nobody expected" in said)
    assert status == 1 and "rank 0 has ended, and so does this process" in said
    (first,) = re.findall(r"Root Cause.*?exitcode +: (-?\d+)", said, re.DOTALL)
    assert first in ("3", "1") and "SIGABRT" not in said and "terminate called" not in said
