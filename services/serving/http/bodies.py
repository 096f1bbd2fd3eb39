"""Bodies of HTTP requests: bounded while they are read, every fault a rejection that names the field."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping
from email.message import Message
from typing import TypeVar
from urllib.parse import parse_qsl
from weakref import WeakKeyDictionary

from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from varl.services.serving.status import FieldFault, RejectionCode, RequestRejectedError, invalid

T = TypeVar("T", bound=BaseModel)


_MOST_FAULTS = 20  # of those that a caller is told of
_LARGE = 256 * 2**10  # bytes of JSON, which take about a millisecond to parse
_turns: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()


class _InMemory(MultiPartParser):
    """Bodies are bounded and held in memory anyway; a file system may be read-only."""

    spool_max_size = 2**31


def media_type(request: Request) -> str:
    """The content type that a request declares, without its parameters; text/plain where it declares none."""
    declared = Message()
    declared["content-type"] = request.headers.get("content-type", "")
    return declared.get_content_type()


def check_query(request: Request, known: Collection[str] = ()) -> None:
    """Raises RequestRejectedError (INVALID_REQUEST) for a parameter that is unknown, misspelt say, or given twice."""
    names = [name for name, _ in request.query_params.multi_items()]
    wanted = f"the query may have {', '.join(known)}" if known else "the query is to be empty"
    faults = [
        FieldFault(name[:64], f"unknown parameter; {wanted}") for name in dict.fromkeys(names) if name not in known
    ]
    faults += [FieldFault(name, "given more than once") for name in known if names.count(name) > 1]
    if faults:
        raise invalid(*faults[:_MOST_FAULTS])


async def read_bytes(request: Request, max_bytes: int) -> bytes:
    """The whole body; raises RequestRejectedError (REQUEST_TOO_LARGE)."""
    return b"".join([chunk async for chunk in _limited(request, max_bytes)])


async def read_json(request: Request, shape: type[T], max_bytes: int) -> T:
    """The body as JSON of one shape, whatever content type it declares; raises RequestRejectedError."""
    text = await read_bytes(request, max_bytes)
    if len(text) < _LARGE:
        return parse_json(shape, text)
    async with _turns.setdefault(asyncio.get_running_loop(), asyncio.Lock()):
        parsed = parse_json(shape, text)
        await asyncio.sleep(0)  # probes and small requests are served between two large bodies
        return parsed


async def read_form(request: Request, max_bytes: int) -> dict[str, str]:
    """The fields of an application/x-www-form-urlencoded body; raises RequestRejectedError."""
    try:
        text = (await read_bytes(request, max_bytes)).decode()
        return dict(parse_qsl(text, keep_blank_values=True, max_num_fields=16))
    except ValueError as error:
        raise RequestRejectedError(RejectionCode.MALFORMED, f"application/x-www-form-urlencoded: {error}") from error


async def read_multipart(request: Request, max_bytes: int, max_files: int) -> tuple[bytes | str, Mapping[str, bytes]]:
    """The part named ``request`` of a multipart/form-data body, and the files by the names of their parts.

    Raises RequestRejectedError.
    """
    chunks = _limited(request, max_bytes)
    parser = _InMemory(request.headers, chunks, max_files=max_files + 1, max_fields=1, max_part_size=max_bytes)  # type: ignore[arg-type]
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError) as error:  # KeyError: no boundary
        raise RequestRejectedError(RejectionCode.MALFORMED, f"multipart/form-data: {error}") from error
    try:
        return await _parts(form)
    finally:
        await form.close()


def parse_json(shape: type[T], text: bytes | str) -> T:
    """JSON of one shape; what is no JSON is malformed, JSON of another shape has its fields named."""
    try:
        return shape.model_validate_json(text)
    except ValidationError as error:
        first, faults = error.errors(include_url=False, include_input=False)[0], field_faults(error)
    if first["type"] == "json_invalid":
        raise RequestRejectedError(RejectionCode.MALFORMED, first["msg"])
    raise invalid(*faults)


def field_faults(error: ValidationError) -> list[FieldFault]:
    """The fields at fault, without their values."""
    return [
        FieldFault(_path(fault["loc"]) or "body", fault["msg"])
        for fault in error.errors(include_url=False, include_input=False)
    ]


def _path(location: tuple[int | str, ...]) -> str:
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return text.removeprefix(".")


async def _limited(request: Request, max_bytes: int) -> AsyncIterator[bytes]:
    """The body, refused as soon as it is, or says it is, too long. Starlette's own limit answers in plain text."""
    length = request.headers.get("content-length", "")
    detail = f"the request has more than {max_bytes} bytes"
    if length.isdecimal() and int(length) > max_bytes:
        raise RequestRejectedError(RejectionCode.REQUEST_TOO_LARGE, detail)
    total = 0
    async for chunk in request.stream():
        total += len(chunk)
        if total > max_bytes:
            raise RequestRejectedError(RejectionCode.REQUEST_TOO_LARGE, detail)
        yield chunk


async def _parts(form: FormData) -> tuple[bytes | str, Mapping[str, bytes]]:
    head = form.get("request")
    if head is None:
        raise invalid(FieldFault("request", "the field is missing"))
    text = await head.read() if isinstance(head, UploadFile) else head
    named = [(name, part) for name, part in form.multi_items() if name != "request"]
    return text, {name: await part.read() for name, part in named if isinstance(part, UploadFile)}
