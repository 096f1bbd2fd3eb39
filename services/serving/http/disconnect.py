"""HTTP clients that go away before they are answered: their work is dropped, as gRPC does by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from fastapi import Request, Response
from starlette.types import Message, Receive

Handler = Callable[[Request], Awaitable[Response]]


class ClientGoneError(Exception):
    """The client hung up; nobody reads an answer."""


async def until_hangup(handler: Handler, request: Request) -> Response:
    """What ``handler`` answers; it is cancelled when the client hangs up after the whole body was read.

    Raises:
        ClientGoneError: the client hung up first.

    """
    task = asyncio.current_task()
    assert task is not None  # noqa: S101
    watch = _Watch(request.receive, task)
    try:
        return await handler(Request(request.scope, watch.receive))
    except asyncio.CancelledError:
        if not watch.hung_up or task.uncancel():  # somebody else wants the task to end
            raise
        raise ClientGoneError from None
    finally:
        watch.end()


class _Watch:
    """Hands on the messages of a request.

    After its body the next one can only be that of the disconnect: waits for it, and cancels.
    """

    def __init__(self, receive: Receive, task: asyncio.Task[object]) -> None:
        self._receive, self._task = receive, task
        self._gone: asyncio.Future[Message] | None = None

    @property
    def hung_up(self) -> bool:
        return self._gone is not None and self._gone.done()

    async def receive(self) -> Message:
        message = await self._receive()
        if self._gone is None and message["type"] == "http.request" and not message.get("more_body"):
            self._gone = asyncio.ensure_future(self._receive())
            self._gone.add_done_callback(self._cancel)
        return message

    def _cancel(self, _: asyncio.Future[Message]) -> None:
        self._task.cancel()

    def end(self) -> None:
        if self._gone is not None:
            self._gone.remove_done_callback(self._cancel)
            self._gone.cancel()
