"""Bearer tokens: whatever is not listed as open is refused without one."""

from __future__ import annotations

import hmac
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
_DETAIL = "authorization: a valid bearer token is wanted"
Refused = Callable[[], None]


class Tokens:
    """The tokens that are good. Several at a time, so that one can be replaced without a gap."""

    def __init__(self, tokens: tuple[str, ...]) -> None:
        self._expected = tuple(f"Bearer {token}".encode() for token in tokens)

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
        """Whether an Authorization header is good.

        Takes the same time wherever it differs, and looks at every token.
        """
        return any([hmac.compare_digest(header, expected) for expected in self._expected])  # noqa: C419


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


_DENIAL = grpc.unary_unary_rpc_method_handler(_deny)
