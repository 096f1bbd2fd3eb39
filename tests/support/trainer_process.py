"""A trainer as a process of its own, and what it says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.paths import PYTHONPATH, ROOT
from tests.support.rollout_helpers import WAIT_S


@dataclass
class TrainerProcess:
    """The process and the file of its log."""

    process: subprocess.Popen[bytes]
    log: Path

    def says(self, pattern: str, since: int = 0) -> int:
        """Wait for a match at or after character ``since`` of the log; returns where it ends."""
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            ended = self.process.poll() is not None
            found = re.search(pattern, self.log.read_text(errors="replace")[since:])
            if found is not None:
                return since + found.end()
            assert not ended, f"it ended with {self.process.returncode}: {self.log.read_text()[-2000:]}"
            time.sleep(0.005)
        raise AssertionError(f"no {pattern!r} in {self.log.read_text()[-2000:]}")

    def finishes(self) -> None:
        """Wait for its end, which must be a good one."""
        assert self.process.wait(WAIT_S) == 0, self.log.read_text()[-2000:]


@contextmanager
def trainer_process(recipe: Path, redis_url: str, log: Path) -> Iterator[TrainerProcess]:
    """A trainer with --resume; killed at the end if it still runs."""
    environment = os.environ | {"PYTHONPATH": PYTHONPATH, "REDIS_URL": redis_url}
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "trainer", str(recipe), "--resume"], cwd=ROOT, env=environment, stderr=out
        )
    try:
        yield TrainerProcess(process, log)
    finally:
        process.kill()
        process.wait()
