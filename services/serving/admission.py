"""How much work is taken in at a time, and how long until there is room again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class OverloadedError(Exception):
    """No room; ``retry_after`` is the estimated number of seconds until there is."""

    def __init__(self, retry_after: float) -> None:
        super().__init__(f"no room for more samples, try again in {retry_after:.1f} s")
        self.retry_after = retry_after


class Admission:
    """A bound on samples in flight over all requests and both faces. For use on one event loop."""

    def __init__(self, limit: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._clock = clock
        self._in_flight = 0
        self._done = 0
        self._busy = 0.0  # seconds with anything in flight, up to _mark
        self._mark = clock()

    @property
    def in_flight(self) -> int:
        """Samples taken in and not yet answered."""
        return self._in_flight

    @contextmanager
    def admit(self, count: int) -> Iterator[None]:
        """Hold room for ``count`` samples; raises OverloadedError where there is none."""
        if self._in_flight + count > self._limit:
            raise OverloadedError(self._drain_seconds(self._in_flight + count - self._limit))
        self._tick()
        self._in_flight += count
        try:
            yield
        finally:
            self._tick()
            self._in_flight -= count
            self._done += count

    def _tick(self) -> None:
        now = self._clock()
        if self._in_flight:
            self._busy += now - self._mark
        self._mark = now

    def _drain_seconds(self, samples: int) -> float:
        """Time to answer ``samples`` at the rate seen so far, 0.1 to 30 s; 1 s before anything was answered."""
        self._tick()
        return min(30.0, max(0.1, samples * self._busy / self._done)) if self._done else 1.0
