"""Waits that say what they wait for."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

_log = logging.getLogger("varl.serving")
QUIET_SECONDS = 10.0


@asynccontextmanager
async def waiting_for(what: str) -> AsyncIterator[None]:
    """While the body waits, warn after ten seconds, and again as often, that ``what`` is waited for."""
    began = time.monotonic()

    async def warn() -> None:
        while True:
            await asyncio.sleep(QUIET_SECONDS)
            _log.warning("waiting for %s, %.0f s so far", what, time.monotonic() - began)

    task = asyncio.create_task(warn())
    try:
        yield
    finally:
        task.cancel()
