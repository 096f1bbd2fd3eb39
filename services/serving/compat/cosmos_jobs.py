"""Work that is enqueued now and pulled later: bounded in number, bytes and time. For use on one event loop."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any

from varl.services.serving.status import RejectionCode, RequestRejectedError

Results = Mapping[str, bytes]  # encoded JSON by reward


@dataclass
class Job:
    """One enqueued request; ``size`` is what it holds: its body while it runs, its results afterwards."""

    rewards: tuple[str, ...]
    size: int
    task: asyncio.Task[Results]
    done_at: float | None = None


class Jobs:
    """Running jobs and kept results together stay within ``max_jobs`` and ``max_bytes``.

    A result is kept for ``keep_seconds`` at most.
    """

    def __init__(
        self, max_jobs: int, max_bytes: int, keep_seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._max_jobs, self._max_bytes, self._keep, self._clock = max_jobs, max_bytes, keep_seconds, clock
        self._jobs: dict[str, Job] = {}

    @property
    def bytes(self) -> int:
        """Bytes of bodies and results held."""
        return sum(job.size for job in self._jobs.values())

    def __len__(self) -> int:
        return len(self._jobs)

    def reserve(self, size: int) -> None:
        """Make room for a job by dropping the oldest results.

        Raises:
            RequestRejectedError: OVERLOADED where running jobs take the room.

        """
        self._expire()
        done = [name for name, job in self._jobs.items() if job.done_at is not None]
        while not self._fits(size) and done:
            del self._jobs[done.pop(0)]
        if not self._fits(size):
            detail = (
                f"{len(self._jobs)} jobs of {self.bytes} bytes are running, "
                f"at most {self._max_jobs} of {self._max_bytes} are taken"
            )
            raise RequestRejectedError(RejectionCode.OVERLOADED, detail, retry_after=1.0)

    def start(self, rewards: tuple[str, ...], size: int, work: Coroutine[Any, Any, Results]) -> str:
        """Run ``work``, for which room was reserved just before; the job's name."""
        name = str(uuid.uuid4())
        job = self._jobs[name] = Job(rewards, size, asyncio.create_task(work))
        job.task.add_done_callback(lambda task: self._finish(name, task))
        return name

    def get(self, name: str) -> Job | None:
        """The job, unless it was dropped or never was."""
        self._expire()
        return self._jobs.get(name)

    def _fits(self, size: int) -> bool:
        return len(self._jobs) < self._max_jobs and self.bytes + size <= self._max_bytes

    def _finish(self, name: str, task: asyncio.Task[Results]) -> None:
        job = self._jobs.pop(name)
        if task.cancelled():
            return
        job.done_at = self._clock()
        job.size = 0 if task.exception() else sum(map(len, task.result().values()))
        self._jobs[name] = job  # at the end: results are dropped in the order in which they were had

    def _expire(self) -> None:
        oldest = self._clock() - self._keep
        for name in [name for name, job in self._jobs.items() if job.done_at is not None and job.done_at < oldest]:
            del self._jobs[name]
