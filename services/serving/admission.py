"""How much work is taken in at a time, and how long until there is room again."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from varl.services.serving.status import RejectionCode, RequestRejectedError

_HALF_LIFE = 10.0  # busy seconds after which a measurement counts half


class Admission:
    """Bounds on samples and bytes in flight over all requests and both protocols. For use on one event loop."""

    def __init__(
        self,
        samples: int,
        size: int,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._most, self._most_bytes = samples, size
        self._clock, self._jitter = clock, jitter
        self._samples = 0
        self._bytes = 0
        # Since the start, fading: seconds with anything in flight up to _mark, and what was answered in them.
        self._busy = self._done = self._done_bytes = 0.0
        self._mark = clock()

    @property
    def samples(self) -> int:
        """Samples taken in and not yet answered."""
        return self._samples

    @property
    def bytes(self) -> int:
        """Bytes of their images."""
        return self._bytes

    @contextmanager
    def admit(self, samples: int, size: int, deadline: float) -> Iterator[None]:
        """Hold room for a request of ``samples`` with ``size`` bytes of images.

        Raises:
            RequestRejectedError: OVERLOADED, no room; REQUEST_TOO_LARGE, there never will be; DEADLINE_EXCEEDED, what
                is in flight will take until after ``deadline``.

        """
        self._tick()
        self._check_room(samples, size)
        self._check_deadline(deadline)
        self._samples += samples
        self._bytes += size
        try:
            yield
        finally:
            self._tick()
            self._samples -= samples
            self._bytes -= size
            self._done += samples
            self._done_bytes += size

    def _check_room(self, samples: int, size: int) -> None:
        if samples > self._most or size > self._most_bytes:
            detail = (
                f"{samples} samples with {size} bytes of images, at most {self._most} with {self._most_bytes} are taken"
            )
            raise RequestRejectedError(RejectionCode.REQUEST_TOO_LARGE, detail)
        over = self._samples + samples - self._most
        over_bytes = self._bytes + size - self._most_bytes
        if over > 0 or over_bytes > 0:
            seconds = (
                max(self._drain(over, self._done), self._drain(over_bytes, self._done_bytes)) if self._done else 1.0
            )
            # Spread over half as long again, or all who were rejected retry at once.
            seconds = min(30.0, max(0.1, seconds)) * (1 + self._jitter() / 2)
            raise RequestRejectedError(
                RejectionCode.OVERLOADED, f"no room for more samples, try again in {seconds:.1f} s", retry_after=seconds
            )

    def _check_deadline(self, deadline: float) -> None:
        """With nothing in flight every request is taken.

        Only work done can correct an estimate that became too long.
        """
        wait = self._drain(self._samples, self._done)
        if self._mark + wait > deadline:
            detail = f"what is in flight takes about {wait:.1f} s more, longer than until the deadline"
            raise RequestRejectedError(RejectionCode.DEADLINE_EXCEEDED, detail)

    def _drain(self, amount: float, done: float) -> float:
        """Seconds to answer ``amount`` at the rate seen so far; 0 while none is known."""
        return max(0.0, amount) * self._busy / done if done else 0.0

    def _tick(self) -> None:
        now = self._clock()
        if self._samples:
            passed = now - self._mark
            fade = math.exp2(-passed / _HALF_LIFE)
            self._busy = self._busy * fade + passed
            self._done *= fade
            self._done_bytes *= fade
        self._mark = now
