"""Messages and refusals of gRPC methods that take their requests as bytes, and read them themselves (intake.py).

Where gRPC parses a request itself, it answers UNKNOWN, with a traceback in the log, to what does not parse. It is the
caller's mistake: INVALID_ARGUMENT.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import NoReturn, TypeVar

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


async def parsed_or_abort(shape: type[M], data: bytes, context: Context) -> M:
    """``parsed``; ends the call where that is refused."""
    try:
        return parsed(shape, data)
    except RequestRejectedError as rejection:
        await abort(context, rejection)


async def abort(context: Context, rejection: RequestRejectedError) -> NoReturn:
    """End the call with the status of a rejection."""
    metadata = (
        () if rejection.retry_after is None else (("grpc-retry-pushback-ms", str(round(1000 * rejection.retry_after))),)
    )
    await context.abort(STATUS[rejection.code].grpc, rejection.detail, metadata)
    raise AssertionError  # abort raises
