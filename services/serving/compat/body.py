"""Bodies of requests, bounded while they are read."""

from __future__ import annotations

from typing import TypeVar
from urllib.parse import parse_qsl

from fastapi import Request
from pydantic import BaseModel, ValidationError

from services.serving.http_face import _limited, _parse, _path
from services.serving.status import FieldFault, RejectionCode, RequestRejectedError

T = TypeVar("T", bound=BaseModel)


async def read_bytes(request: Request, max_bytes: int) -> bytes:
    """The whole body; raises RequestRejectedError (REQUEST_TOO_LARGE)."""
    return b"".join([chunk async for chunk in _limited(request, max_bytes)])


async def read_json(request: Request, shape: type[T], max_bytes: int) -> T:
    """The body as JSON of one shape, whatever content type it declares; raises RequestRejectedError."""
    return _parse(shape, await read_bytes(request, max_bytes))


def parse_json(shape: type[T], text: bytes) -> T:
    """JSON of one shape; raises RequestRejectedError."""
    return _parse(shape, text)


async def read_form(request: Request, max_bytes: int) -> dict[str, str]:
    """The fields of an application/x-www-form-urlencoded body; raises RequestRejectedError."""
    try:
        text = (await read_bytes(request, max_bytes)).decode()
        return dict(parse_qsl(text, keep_blank_values=True, max_num_fields=16))
    except ValueError as error:
        raise RequestRejectedError(RejectionCode.MALFORMED, f"application/x-www-form-urlencoded: {error}") from error


def field_faults(error: ValidationError) -> list[FieldFault]:
    """The fields at fault, without their values."""
    return [FieldFault(_path(fault["loc"]) or "body", fault["msg"]) for fault in error.errors(include_url=False, include_input=False)]
