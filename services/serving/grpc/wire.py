"""Messages and refusals of gRPC methods that take their requests as bytes, and read them themselves (intake.py).

Where gRPC parses a request itself, it answers UNKNOWN, with a traceback in the log, to what does not parse. It is the
caller's mistake: INVALID_ARGUMENT.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from varl.services.serving.status import STATUS, RejectionCode, RequestRejectedError

Context = grpc.aio.ServicerContext[bytes, Message]
Requests = AsyncIterator[bytes]
M = TypeVar("M", bound=Message)


def to_bytes(message: Message) -> bytes:
    """Serialize an answer."""
    return message.SerializeToString()


def parsed(shape: type[M], data: bytes) -> M:
    """The message that the bytes hold; raises RequestRejectedError (MALFORMED)."""
    try:
        return shape.FromString(data)
    except DecodeError as error:
        raise RequestRejectedError(RejectionCode.MALFORMED, f"not a {shape.DESCRIPTOR.full_name}: {error}") from error


async def answered(context: Context, answer: Awaitable[M]) -> M:
    """What ``answer`` gives; ends the call where that is refused.

    grpcio keeps the exception that ends a call until the garbage collector comes, which counts objects and not bytes:
    with the frames of ``answer`` in its traceback, a few hundred refused messages would be gigabytes.
    """
    try:
        return await answer
    except RequestRejectedError as rejection:
        refusal = _refusal(rejection)
    await context.abort(*refusal)
    raise AssertionError  # abort raises


async def parsed_each(shape: type[M], requests: Requests, context: Context) -> AsyncIterator[M]:
    """The messages of a stream; the first that does not parse ends the call."""
    async with forgetting(requests) as messages:
        async for data in messages:
            try:
                message = parsed(shape, data)
            except RequestRejectedError as rejection:
                refusal = _refusal(rejection)
                break
            yield message
        else:
            return
    del data  # see ``answered``
    await context.abort(*refusal)


@asynccontextmanager
async def forgetting(requests: Requests) -> AsyncIterator[Requests]:
    """The messages of a call, whose last one goes with this context.

    What iterates over them is part of a cycle: unfinished, it keeps the last one until the garbage collector comes.
    """
    messages = aiter(requests)
    try:
        yield messages
    finally:
        if isinstance(messages, AsyncGenerator):
            await messages.aclose()


def _refusal(rejection: RequestRejectedError) -> tuple[grpc.StatusCode, str, tuple[tuple[str, str], ...]]:
    """Code, detail and trailing metadata of a rejection."""
    wait = rejection.retry_after
    metadata = () if wait is None else (("grpc-retry-pushback-ms", str(round(1000 * wait))),)
    return STATUS[rejection.code].grpc, rejection.detail, metadata
