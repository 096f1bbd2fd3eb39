"""Waits that say so: after ten seconds what is waited for and until when, and from then on every fifteen."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime, timedelta

from varl.launch.beside import beside

DAY_S = 24 * 3600.0  # the longest time limit that a service or worker takes, in seconds
FIRST_S, THEN_S = 10.0, 15.0
TICK_S = 1.0
_log = logging.getLogger("varl.wait")


class Wait:
    """One wait, from now on; the waiting code calls ``tell`` as often as it likes.

    what: completes "waiting for …". limit_s: how long it may take; None: until the process is told to stop. say: takes
    a line, by default the logger ``varl.wait``. then_s: from one line to the next.
    """

    def __init__(
        self,
        what: str,
        limit_s: float | None = None,
        say: Callable[[str], None] = _log.warning,
        then_s: float = THEN_S,
    ) -> None:
        self._what, self._limit_s, self._say, self._then_s = what, limit_s, say, then_s
        self._began = time.monotonic()
        self._next = self._began + FIRST_S
        self._why = ""  # as last told

    @property
    def lasted_s(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self._began

    @property
    def left_s(self) -> float:
        """Seconds that it may still take, without end for one that has no limit; never negative."""
        return float("inf") if self._limit_s is None else max(self._limit_s - self.lasted_s, 0.0)

    def tell(self, why: object = "") -> None:
        """Say what is waited for, and why if that is known, where it is time to."""
        self._why = str(why) or self._why
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + self._then_s
        told = f": {self._why}" if self._why else ""
        self._say(f"waiting for {self._what} for {self.lasted_s:.0f} s, {self._end()}{told}")

    def _end(self) -> str:
        if self._limit_s is None:
            return "until the process is told to stop"
        end = datetime.now().astimezone() + timedelta(seconds=self.left_s)
        return f"until {end:%Y-%m-%d %H:%M:%S %Z}"

    @contextmanager
    def told_aside(self) -> Iterator[None]:
        """Tell from another thread while the block is in a call that cannot: a read, a write, a connection."""
        with beside("wait", self._tell_until):
            yield

    def _tell_until(self, over: threading.Event) -> None:
        while not over.wait(max(self._next - time.monotonic(), 0.0)):
            self.tell()

    @asynccontextmanager
    async def telling(self) -> AsyncIterator[None]:
        """Tell while the block awaits something that cannot."""
        task = asyncio.create_task(self._keep_telling())
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _keep_telling(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self.tell()
