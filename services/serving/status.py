"""Why a whole request is rejected, and what both protocols answer then: the one table of statuses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from http import HTTPStatus
from typing import NamedTuple

import grpc


class RejectionCode(StrEnum):
    """Why a whole request was rejected."""

    MALFORMED = "malformed"
    INVALID_REQUEST = "invalid_request"
    UNSUPPORTED_TYPE = "unsupported_type"
    UNAUTHENTICATED = "unauthenticated"
    CROSS_SITE = "cross_site"
    NO_SUCH_REWARD = "no_such_reward"
    REQUEST_TOO_LARGE = "request_too_large"
    OVERLOADED = "overloaded"
    NOT_READY = "not_ready"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    BACKEND_FAILED = "backend_failed"


class Status(NamedTuple):
    """What the two protocols answer; ``retryable``: the same request may succeed later."""

    http: HTTPStatus
    grpc: grpc.StatusCode
    retryable: bool


# RESOURCE_EXHAUSTED stands for load alone: clients retry it, so nothing that fails for ever may carry it.
STATUS: Mapping[RejectionCode, Status] = {
    RejectionCode.MALFORMED: Status(HTTPStatus.BAD_REQUEST, grpc.StatusCode.INVALID_ARGUMENT, False),
    RejectionCode.INVALID_REQUEST: Status(HTTPStatus.UNPROCESSABLE_ENTITY, grpc.StatusCode.INVALID_ARGUMENT, False),
    RejectionCode.UNSUPPORTED_TYPE: Status(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, grpc.StatusCode.INVALID_ARGUMENT, False),
    RejectionCode.UNAUTHENTICATED: Status(HTTPStatus.UNAUTHORIZED, grpc.StatusCode.UNAUTHENTICATED, False),
    RejectionCode.CROSS_SITE: Status(HTTPStatus.FORBIDDEN, grpc.StatusCode.PERMISSION_DENIED, False),
    RejectionCode.NO_SUCH_REWARD: Status(HTTPStatus.NOT_FOUND, grpc.StatusCode.NOT_FOUND, False),
    RejectionCode.REQUEST_TOO_LARGE: Status(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE, grpc.StatusCode.INVALID_ARGUMENT, False
    ),
    RejectionCode.OVERLOADED: Status(HTTPStatus.TOO_MANY_REQUESTS, grpc.StatusCode.RESOURCE_EXHAUSTED, True),
    RejectionCode.NOT_READY: Status(HTTPStatus.SERVICE_UNAVAILABLE, grpc.StatusCode.UNAVAILABLE, True),
    RejectionCode.DEADLINE_EXCEEDED: Status(HTTPStatus.GATEWAY_TIMEOUT, grpc.StatusCode.DEADLINE_EXCEEDED, True),
    RejectionCode.BACKEND_FAILED: Status(HTTPStatus.BAD_GATEWAY, grpc.StatusCode.INTERNAL, True),
}


MAX_FAULTS = 20  # that a rejection reports
MAX_SHOWN = 100  # characters of a caller's value that are told back
_MAX_DETAIL = 2000  # characters; gRPC carries a detail in a header


def shown(value: object) -> str:
    """A caller's value as a message tells it back: quoted, and cut after its first 100 characters."""
    text = value if isinstance(value, str) else str(value)
    return repr(text) if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]!r}…"


def cut(text: str, most: int = _MAX_DETAIL) -> str:
    """The text, or its beginning."""
    return text if len(text) <= most else text[:most] + "…"


@dataclass(frozen=True)
class FieldFault:
    """A field, written as samples[0].id, and what is wrong with it; neither is longer than a few lines."""

    field: str
    detail: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "field", cut(self.field, 2 * MAX_SHOWN))
        object.__setattr__(self, "detail", cut(self.detail, 10 * MAX_SHOWN))


class RequestRejectedError(Exception):
    """A request of which nothing is scored.

    ``faults`` names the fields, at most 20 of them; ``retry_after`` (seconds) is set where the same request may succeed
    later. However much a caller sends, the answer to it is short.
    """

    def __init__(
        self, code: RejectionCode, detail: str, faults: Sequence[FieldFault] = (), retry_after: float | None = None
    ) -> None:
        detail = cut(detail)
        super().__init__(detail)
        self.code, self.detail, self.retry_after = code, detail, retry_after
        self.faults = tuple(faults[:MAX_FAULTS])


def invalid(*faults: FieldFault) -> RequestRejectedError:
    """The rejection that these faults make."""
    told = "; ".join(f"{fault.field}: {fault.detail}" for fault in faults[:MAX_FAULTS])
    more = "; and more" if len(faults) > MAX_FAULTS else ""
    return RequestRejectedError(RejectionCode.INVALID_REQUEST, cut(told, _MAX_DETAIL - 32) + more, faults)
