"""HTTP clients that go away before they are answered: their work is dropped, as gRPC does by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from fastapi import Request

T = TypeVar("T")


class ClientGoneError(Exception):
    """The client hung up; nobody reads an answer."""


async def until_hangup(request: Request, work: Awaitable[T]) -> T:
    """The result of ``work``, which is cancelled when the client hangs up. To be called once the body is read.

    Raises:
        ClientGoneError: the client hung up first.

    """
    working = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(request.receive())  # after the body the next message is that of the disconnect
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientGoneError
    finally:
        working.cancel()
        gone.cancel()
