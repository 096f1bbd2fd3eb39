"""A look at what is under way several times a second, as long as there is something."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

Look = Callable[[float, float], bool]


class Ticks:
    """Calls ``look`` every ``seconds`` while it returns True. Belongs to one event loop.

    The arguments of ``look``: the loop's time, and by how many seconds the loop was held up, in which nothing could
    come in.
    """

    def __init__(self, seconds: float, look: Look) -> None:
        self._seconds, self._look = seconds, look
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0

    def start(self) -> None:
        """Begin, unless it has begun."""
        if self._timer is None:
            self._wait()

    def _wait(self) -> None:
        loop = asyncio.get_running_loop()
        self._due = loop.time() + self._seconds
        self._timer = loop.call_at(self._due, self._tick)

    def _tick(self) -> None:
        now = asyncio.get_running_loop().time()
        more = self._look(now, max(0.0, now - self._due))
        self._timer = None
        if more:
            self._wait()
