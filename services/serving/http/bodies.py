"""Bodies of HTTP requests: bounded while they are read, every fault a rejection that names the field."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from email.message import Message
from typing import TypeVar
from urllib.parse import parse_qsl

from fastapi import Request
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from varl.services.serving.http.counts import MAX_ITEMS, check_json
from varl.services.serving.http.forms import Part, boundary_of, parts_of
from varl.services.serving.status import (
    MAX_FAULTS,
    FieldFault,
    RejectionCode,
    RequestRejectedError,
    cut,
    invalid,
    shown,
)

T = TypeVar("T", bound=BaseModel)
R = TypeVar("R")
_LARGE = 256 * 2**10  # bytes, which take about a millisecond to parse
_REQUEST = "request"  # the part of a form that is no image
_NO_FIELD = f"unknown field; images come as files, all else stands in the field {_REQUEST}"
_MAX_FORM = 64 * 2**10  # bytes of a form of a few short fields
_large = ThreadPoolExecutor(1, "large bodies")  # one at a time: each becomes new memory several times its size


def media_type(request: Request) -> str:
    """The content type that a request declares, without its parameters; text/plain where it declares none."""
    given = request.headers.get("content-type", "")
    if given == "application/json":  # nearly always: an e-mail's header takes as long as all else of a small body
        return given
    declared = Message()
    declared["content-type"] = given
    return declared.get_content_type()


def check_query(request: Request, known: Collection[str] = ()) -> None:
    """Raises RequestRejectedError (INVALID_REQUEST) for a parameter that is unknown, misspelt say, or given twice."""
    if not request.scope["query_string"]:
        return
    names = [name for name, _ in request.query_params.multi_items()]
    wanted = f"the query may have {', '.join(known)}" if known else "the query is to be empty"
    faults = [
        FieldFault(name[:64], f"unknown parameter; {wanted}") for name in dict.fromkeys(names) if name not in known
    ]
    faults += [FieldFault(name, "given more than once") for name in known if names.count(name) > 1]
    if faults:
        raise invalid(*faults[:MAX_FAULTS])


async def read_bytes(request: Request, max_bytes: int) -> bytes:
    """The whole body; raises RequestRejectedError (REQUEST_TOO_LARGE)."""
    return b"".join([chunk async for chunk in _limited(request, max_bytes)])


async def aside(size: int, function: Callable[[], R]) -> R:
    """What ``function`` makes of so many bytes: of many on a thread, so that probes and small requests are served."""
    if size < _LARGE:
        return function()
    return await asyncio.get_running_loop().run_in_executor(_large, function)


async def read_json(request: Request, shape: type[T], max_bytes: int, max_items: int = MAX_ITEMS) -> T:
    """The body as JSON of one shape; raises RequestRejectedError as ``read_json_as`` does."""
    return await read_json_as(request, shape, lambda body: body, max_bytes, max_items)


async def read_json_as(
    request: Request, shape: type[T], convert: Callable[[T], R], max_bytes: int, max_items: int = MAX_ITEMS
) -> R:
    """What ``convert`` makes of a body that is JSON of one shape, in which no list is longer than ``max_items``.

    A large body is parsed and converted on a thread. It must not say that it is something else than JSON, which is what
    a page of another site may send without asking.

    Raises:
        RequestRejectedError: UNSUPPORTED_TYPE for another content type, and as ``parse_json`` and ``convert`` do.

    """
    declared = media_type(request)
    if "content-type" in request.headers and declared != "application/json" and not declared.endswith("+json"):
        detail = f"content-type: {shown(declared)}; application/json is taken"
        raise RequestRejectedError(RejectionCode.UNSUPPORTED_TYPE, detail)
    pieces = [piece async for piece in _limited(request, max_bytes)]
    return await aside(sum(map(len, pieces)), lambda: convert(parse_json(shape, b"".join(pieces), max_items)))


async def read_form(request: Request, max_bytes: int) -> dict[str, str]:
    """The fields of an application/x-www-form-urlencoded body; raises RequestRejectedError."""
    try:
        text = (await read_bytes(request, min(max_bytes, _MAX_FORM))).decode()
        return dict(parse_qsl(text, keep_blank_values=True, max_num_fields=16))
    except ValueError as error:
        raise RequestRejectedError(RejectionCode.MALFORMED, f"application/x-www-form-urlencoded: {error}") from error


async def read_multipart(request: Request, max_bytes: int, max_files: int) -> tuple[bytes, Mapping[str, bytes]]:
    """The part named ``request`` of a multipart/form-data body, and the files by the names of their parts.

    Raises RequestRejectedError, also for a part that is neither and for a name that stands twice.
    """
    body = await read_bytes(request, max_bytes)
    try:
        boundary = boundary_of(request.headers.get("content-type", ""))
        parts = await aside(len(body), lambda: parts_of(body, boundary, max_files + 1))
    except ValueError as error:  # UnicodeDecodeError, for a name, is one
        raise RequestRejectedError(RejectionCode.MALFORMED, f"multipart/form-data: {error}") from error
    faults = _form_faults(parts)
    if faults:
        raise invalid(*faults)
    data = {part.name: part.data for part in parts}
    return data.pop(_REQUEST), data


def _form_faults(parts: Sequence[Part]) -> list[FieldFault]:
    """What is passed over by nobody: a field that is not looked at, or a second one of its name, is a slip."""
    names = Counter(part.name for part in parts)
    unknown = {part.name: None for part in parts if not part.is_file and part.name != _REQUEST}
    return [
        *([] if _REQUEST in names else [FieldFault(_REQUEST, "the field is missing")]),
        *(FieldFault(name, _NO_FIELD) for name in unknown),
        *(FieldFault(name, "stands twice") for name, count in names.items() if count > 1 and name not in unknown),
    ]


def parse_json(shape: type[T], text: bytes, max_items: int = MAX_ITEMS) -> T:
    """JSON of one shape; what is no JSON is malformed, JSON of another shape has its fields named.

    Its parts are counted first: each that is wrong would make a fault of its own, each that is right an object.

    Raises:
        RequestRejectedError: MALFORMED or INVALID_REQUEST.

    """
    check_json(text, max_items)
    try:
        return shape.model_validate_json(text)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)[: MAX_FAULTS + 1]
    if found[0]["type"] == "json_invalid":
        raise RequestRejectedError(RejectionCode.MALFORMED, found[0]["msg"])
    raise invalid(*_faults(found))


def field_faults(error: ValidationError) -> list[FieldFault]:
    """The fields at fault, without their values; one more than are reported, where there are more."""
    return _faults(error.errors(include_url=False, include_input=False)[: MAX_FAULTS + 1])


def _faults(found: Sequence[ErrorDetails]) -> list[FieldFault]:
    return [FieldFault(_path(fault["loc"]) or "body", fault["msg"]) for fault in found]


def _path(location: tuple[int | str, ...]) -> str:
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{cut(part, 100)}" for part in location)
    return text.removeprefix(".")


async def _limited(request: Request, max_bytes: int) -> AsyncIterator[bytes]:
    """The body, refused as soon as it is, or says it is, too long. Starlette's own limit answers in plain text.

    One that says that it is compressed is refused: a kilobyte would unfold to a gigabyte.
    """
    encoding = request.headers.get("content-encoding", "identity")
    if encoding.lower() not in ("", "identity"):
        detail = f"content-encoding: {shown(encoding)}; bodies are taken uncompressed"
        raise RequestRejectedError(RejectionCode.UNSUPPORTED_TYPE, detail)
    length = request.headers.get("content-length", "").lstrip("0")
    detail = f"the request has more than {max_bytes} bytes"
    if length.isdecimal() and (len(length) > len(str(max_bytes)) or int(length) > max_bytes):
        raise RequestRejectedError(RejectionCode.REQUEST_TOO_LARGE, detail)
    total = 0
    async for chunk in request.stream():
        total += len(chunk)
        if total > max_bytes:
            raise RequestRejectedError(RejectionCode.REQUEST_TOO_LARGE, detail)
        yield chunk
