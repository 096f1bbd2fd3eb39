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
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - this is a coroutine
    gone = asyncio.ensure_future(request.receive())  # after the body the next message is that of the disconnect
    gone.add_done_callback(cancel := lambda _: task.cancel())
    try:
        return await work
    except asyncio.CancelledError:
        if not gone.done() or task.uncancel():  # somebody else wants the task to end
            raise
        raise ClientGoneError from None
    finally:
        gone.remove_done_callback(cancel)
        gone.cancel()
