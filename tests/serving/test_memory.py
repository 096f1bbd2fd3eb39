"""Memory goes back to the machine: once the process has time, and now and then where it never has.

Each case in a process of its own, in which nothing else has left free memory behind.
"""

from __future__ import annotations

import asyncio
import ctypes
import hashlib
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from multiprocessing import get_context

import pytest

from varl.services.serving.memory import giving_back, resident

_SIZE, _COUNT = 10_000, 10_000  # bytes of a block, below what malloc maps by itself; blocks
_MOST_OF_IT = _SIZE * _COUNT * 3 // 4

pytestmark = pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="the C library is not glibc")
Case = Callable[[], Coroutine[None, None, bool]]


@asynccontextmanager
async def burst(look: float, most: float = 60.0, used: float = 0.0) -> AsyncIterator[int]:
    """The process's highest memory, after 100 MB came free between blocks that are still in use.

    ``used``: seconds for which all of them are.
    """
    async with giving_back(look, most):
        await asyncio.sleep(0)
        blocks = [b"x" * _SIZE for _ in range(_COUNT)]
        await asyncio.sleep(used)
        highest, kept = resident(), blocks[::100]
        blocks.clear()
        assert highest - resident() < _MOST_OF_IT, "glibc gave it back by itself"
        yield highest
        assert len(kept) == 100


@contextmanager
def work(threads: int = 4) -> Iterator[None]:
    """A process at work, on a busy machine too, whose event loop is not held up: hashing holds no lock."""
    ended = threading.Event()

    def spin() -> None:
        while not ended.is_set():
            hashlib.sha256(bytes(2**20))

    with ThreadPoolExecutor(threads) as pool:
        for _ in range(threads):
            pool.submit(spin)
        try:
            yield
        finally:
            ended.set()


async def given_back(highest: int, looks: int = 200) -> bool:
    for _ in range(looks):
        if highest - resident() > _MOST_OF_IT:
            return True
        await asyncio.sleep(0.05)
    return False


async def idle() -> bool:
    async with burst(look=0.1) as highest:
        return await given_back(highest)


async def used_at_first() -> bool:
    async with burst(look=0.1, used=1.0) as highest:
        with work(1):
            await asyncio.sleep(0.2)
        return await given_back(highest)


async def busy() -> bool:
    with work():
        async with burst(look=0.5) as highest:
            return await given_back(highest, looks=30)


async def busy_for_long() -> bool:
    with work():
        async with burst(look=0.1, most=0.3) as highest:
            return await given_back(highest)


@pytest.mark.parametrize(
    ("case", "gives_back"), [(idle, True), (used_at_first, True), (busy, False), (busy_for_long, True)]
)
def test_what_a_burst_took_is_given_back_by_a_process_that_idles_or_was_long_at_work(
    case: Case, gives_back: bool
) -> None:
    with ProcessPoolExecutor(1, get_context("spawn")) as alone:
        assert alone.submit(_run, case).result() is gives_back


def _run(case: Case) -> bool:
    return asyncio.run(case())
