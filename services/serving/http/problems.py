"""RFC 9457 problem details for every HTTP error."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from varl.services.serving.http.disconnect import ClientGoneError
from varl.services.serving.status import STATUS, FieldFault, RejectionCode, RequestRejectedError

_log = logging.getLogger("varl.serving")
_RETRYABLE = frozenset(status.http for status in STATUS.values() if status.retryable)


class Problem(BaseModel):
    """RFC 9457 problem details, with a stable code, whether a retry may help, and the fields at fault."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    retryable: bool
    errors: list[FieldFault] = []


def problem(
    status: int, code: str, detail: str, errors: Sequence[FieldFault] = (), headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """An application/problem+json answer."""
    body = Problem(
        type=f"urn:varl:problem:{code}",
        title=HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        code=code,
        retryable=status in _RETRYABLE,
        errors=list(errors),
    )
    return JSONResponse(body.model_dump(), status_code=status, headers=headers, media_type="application/problem+json")


def rejection_problem(rejection: RequestRejectedError) -> JSONResponse:
    """Make the problem of a rejected request, with Retry-After where a retry may help."""
    headers = {} if rejection.retry_after is None else {"Retry-After": str(math.ceil(rejection.retry_after))}
    if rejection.code is RejectionCode.UNAUTHENTICATED:
        headers["WWW-Authenticate"] = "Bearer"
    return problem(STATUS[rejection.code].http, rejection.code, rejection.detail, rejection.faults, headers)


def install(app: FastAPI) -> None:
    """Answer every error of the app as a problem."""

    async def rejected(_: Request, error: Any) -> JSONResponse:  # noqa: ANN401
        return rejection_problem(error)

    async def gone(_: Request, error: Any) -> Response:  # noqa: ANN401
        return Response(status_code=499)  # nobody reads it

    async def http(_: Request, error: Any) -> JSONResponse:  # noqa: ANN401
        code = HTTPStatus(error.status_code).name.lower()
        return problem(error.status_code, code, str(error.detail), headers=error.headers)

    async def unexpected(_: Request, error: Any) -> JSONResponse:  # noqa: ANN401
        _log.error("unexpected failure of a request", exc_info=error)
        return problem(HTTPStatus.INTERNAL_SERVER_ERROR, "internal", "unexpected failure, see the service's log")

    app.add_exception_handler(RequestRejectedError, rejected)
    app.add_exception_handler(ClientGoneError, gone)
    app.add_exception_handler(ClientDisconnect, gone)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(Exception, unexpected)
