"""Memory that was taken for a burst of large bodies goes back to the machine."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache


@cache
def _malloc_trim() -> Callable[[int], int] | None:
    """glibc's; None with another C library, which has its own ways."""
    return getattr(ctypes.CDLL(None), "malloc_trim", None)


def give_back() -> None:
    """Hand free memory back to the machine; takes some milliseconds, and is for a thread.

    glibc keeps what lies between allocations that are still in use, for good.
    """
    trim = _malloc_trim()
    if trim is not None:
        trim(0)
