"""Bearer tokens: whatever is not listed as open is refused without one, before anything but its head is read."""

from __future__ import annotations

import binascii
import hmac
from base64 import b64decode
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NoReturn

import grpc
from starlette.types import ASGIApp, Receive, Scope, Send

from varl.services.serving.http.problems import rejection_problem
from varl.services.serving.http.try_page import PAGE_PATHS
from varl.services.serving.status import STATUS, RejectionCode, RequestRejectedError

OPEN_PATHS = PAGE_PATHS | {"/livez", "/readyz", "/metrics"}  # probes, scrapers and who opens the page have no token
OPEN_SERVICES = ("/grpc.health.v1.Health/",)
_DETAIL = "authorization: a valid token is wanted, as Bearer TOKEN or as the password of Basic"
Refused = Callable[[], None]


class Tokens:
    """The tokens that are good. Several at a time, so that one can be replaced without a gap."""

    def __init__(self, tokens: tuple[str, ...]) -> None:
        self._expected = tuple(token.encode() for token in tokens)

    @classmethod
    def read(cls, path: Path) -> Tokens:
        """One token a line; blank lines and lines that begin with # count for nothing.

        Raises:
            OSError: the file cannot be read.
            ValueError: it holds no token, or one with a blank in it.

        """
        lines = [line.strip() for line in path.read_text().splitlines()]
        tokens = tuple(line for line in lines if line and not line.startswith("#"))
        if not tokens or any(len(token.split()) > 1 for token in tokens):
            raise ValueError(f"{path}: one token a line is wanted, without blanks, and at least one")
        return cls(tokens)

    def allow(self, header: bytes) -> bool:
        """Whether an Authorization header holds a good token: after Bearer, or as the password of Basic.

        The latter is what http://user:TOKEN@host makes of it, all that some clients can be told. Takes the same time
        wherever the token differs, and looks at every one.
        """
        token = _token(header)
        return any([hmac.compare_digest(token, expected) for expected in self._expected])  # noqa: C419


def _token(header: bytes) -> bytes:
    """The token in a header; b"", which is none, where there is no such thing."""
    scheme, _, value = header.partition(b" ")
    match scheme.lower():
        case b"bearer":
            return value.strip()
        case b"basic":
            try:
                return b64decode(value.strip(), validate=True).partition(b":")[2]
            except binascii.Error:
                return b""
        case _:
            return b""


def read_tokens(path: Path | None) -> Tokens | None:
    """``Tokens.read``, and raises as it does; None for no file: then everybody may ask."""
    return None if path is None else Tokens.read(path)


class BearerGate:
    """ASGI: answers 401 in place of ``app``, except on the open paths. ``refused`` is told of each."""

    def __init__(self, app: ASGIApp, tokens: Tokens, refused: Refused) -> None:
        self._app, self._tokens, self._refused = app, tokens, refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["path"] in OPEN_PATHS or self._tokens.allow(dict(scope["headers"]).get(b"authorization", b"")):
            await self._app(scope, receive, send)
            return
        self._refused()
        await rejection_problem(RequestRejectedError(RejectionCode.UNAUTHENTICATED, _DETAIL))(scope, receive, send)


class BearerInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[type-arg] # generic in the stubs alone
    """gRPC: answers UNAUTHENTICATED in place of the method, except for health. ``refused`` is told of each."""

    def __init__(self, tokens: Tokens, refused: Refused) -> None:
        self._tokens, self._refused = tokens, refused

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], details: Any) -> Any:  # noqa: ANN401
        """The handler of one call."""
        header = next((value for key, value in details.invocation_metadata if key == "authorization"), "")
        if details.method.startswith(OPEN_SERVICES) or self._tokens.allow(
            header.encode() if isinstance(header, str) else header
        ):
            return await continuation(details)
        self._refused()
        return _DENIAL


async def _deny(_: object, context: grpc.aio.ServicerContext[Any, Any]) -> NoReturn:
    await context.abort(STATUS[RejectionCode.UNAUTHENTICATED].grpc, _DETAIL)
    raise AssertionError  # abort raises


# Of a stream, whatever the method: of a single request grpcio would read all before it asks the handler.
_DENIAL = grpc.stream_unary_rpc_method_handler(_deny)
