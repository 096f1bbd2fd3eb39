"""Memory goes back to the machine: once the process has time, and now and then where it never has."""

from __future__ import annotations

import asyncio
import ctypes
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from varl.services.serving.memory import giving_back, resident

_SIZE, _COUNT = 10_000, 10_000  # bytes of a block, below what malloc maps by itself; blocks
_MOST_OF_IT = _SIZE * _COUNT * 3 // 4

pytestmark = pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="the C library is not glibc")


@asynccontextmanager
async def burst(look: float, most: float = 60.0) -> AsyncIterator[int]:
    """The process's highest memory, after 100 MB came free between blocks that are still in use."""
    async with giving_back(look, most):
        await asyncio.sleep(0)
        blocks = [b"x" * _SIZE for _ in range(_COUNT)]
        highest, kept = resident(), blocks[::100]
        blocks.clear()
        assert highest - resident() < _MOST_OF_IT, "glibc gave it back by itself"
        yield highest
        assert len(kept) == 100


@asynccontextmanager
async def work() -> AsyncIterator[None]:
    """A core that is busy, and an event loop that is not held up."""

    async def spin() -> None:
        while True:
            until = time.process_time() + 0.01
            while time.process_time() < until:
                pass
            await asyncio.sleep(0)

    task = asyncio.create_task(spin())
    try:
        yield
    finally:
        task.cancel()


async def given_back(highest: int, looks: int) -> bool:
    for _ in range(looks):
        if highest - resident() > _MOST_OF_IT:
            return True
        await asyncio.sleep(0.05)
    return False


async def test_a_process_that_idles_gives_back_what_a_burst_took() -> None:
    async with burst(look=0.1) as highest:
        assert await given_back(highest, looks=200)


async def test_what_was_in_use_the_last_time_is_given_back_the_next_time() -> None:
    async with giving_back(look=0.1):
        await asyncio.sleep(0)
        blocks = [b"x" * _SIZE for _ in range(_COUNT)]
        await asyncio.sleep(1)  # it looks, and finds nothing to give back
        highest, kept = resident(), blocks[::100]
        blocks.clear()
        async with work():
            await asyncio.sleep(0.1)
        assert await given_back(highest, looks=200)
        assert len(kept) == 100


async def test_a_process_that_works_keeps_it_at_hand() -> None:
    async with work(), burst(look=0.1) as highest:
        assert not await given_back(highest, looks=20)


async def test_a_process_that_never_idles_gives_it_back_now_and_then() -> None:
    async with work(), burst(look=0.1, most=0.3) as highest:
        assert await given_back(highest, looks=200)
