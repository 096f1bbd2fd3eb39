"""Memory that was taken for a burst of work goes back to the machine.

glibc keeps what lies between allocations that are still in use, for good: a server that is attacked once, or decodes
one large picture, would hold the memory of that moment from then on.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path

_LOOK = 2.0  # seconds between two looks at the process
_IDLE = 0.5  # share of a core below which the process has time for this
_MOST = 60.0  # seconds after which a process that is never idle gives back all the same
_GROWN = 1.05  # memory over the least so far, from which on it is worth it
_WORKED = 0.05  # seconds of work since the last time, without which there is nothing new to give back


@cache
def _malloc_trim() -> Callable[[int], int] | None:
    """glibc's; None with another C library, which has its own ways."""
    return getattr(ctypes.CDLL(None), "malloc_trim", None)


def resident() -> int:
    """Bytes of memory that this process holds, by Linux's /proc."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@asynccontextmanager
async def giving_back(look: float = _LOOK, most: float = _MOST) -> AsyncIterator[None]:
    """While in the block, hand free memory back to the machine whenever the process has grown and then idles.

    Looks every ``look`` seconds. A process that works without a pause gives back every ``most`` seconds.
    """
    trim = _malloc_trim()
    task = None if trim is None else asyncio.create_task(_watch(trim, look, most))
    try:
        yield
    finally:
        if task is not None:
            task.cancel()


async def _watch(trim: Callable[[int], int], look: float, most: float) -> None:
    least, since, worked = resident(), time.monotonic(), 0.0
    while True:
        before = time.process_time()
        await asyncio.sleep(look)
        now, held = time.process_time(), resident()
        idle = now - before < _IDLE * look or time.monotonic() - since > most
        if idle and held > _GROWN * least and now - worked > _WORKED:
            await asyncio.to_thread(trim, 0)  # some milliseconds
            held, since, worked = resident(), time.monotonic(), time.process_time()
        least = min(least, held)
