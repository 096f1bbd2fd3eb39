"""OpenAPI of the routes that read their bodies themselves, and of their problems."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from functools import partial
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.types import Message, Receive, Scope, Send

from varl.services.serving.access import OPEN_PATHS
from varl.services.serving.http.disconnect import until_hangup
from varl.services.serving.http.pages import add_api_page
from varl.services.serving.http.problems import Problem, rejection_problem
from varl.services.serving.status import RejectionCode, RequestRejectedError

SCORE_STATUSES = (
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.UNAUTHORIZED,
    HTTPStatus.FORBIDDEN,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    HTTPStatus.UNPROCESSABLE_ENTITY,
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.INTERNAL_SERVER_ERROR,
    HTTPStatus.SERVICE_UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT,
)
INFO_STATUSES = (HTTPStatus.UNAUTHORIZED, HTTPStatus.INTERNAL_SERVER_ERROR)
Endpoint = Callable[[Request], Coroutine[Any, Any, Response]]
_CROSS_SITE = "sec-fetch-site, origin: a page of another site may not use this service through its reader's browser"
_FILE = {"type": "string", "format": "binary", "description": "An image file; the part's name is its sample's id."}


class DocumentedApp(FastAPI):
    """An app whose schema holds ``shapes`` beside those that FastAPI finds in the routes."""

    def __init__(self, title: str, *shapes: type[BaseModel]) -> None:
        # FastAPI makes the spans of HTTP requests itself once a tracer is set up; probes and scrapes would only drown
        # the others.
        traces: Any = {"exclude": lambda scope: scope["path"] in OPEN_PATHS, "metrics": False, "logs": False}
        super().__init__(title=title, version="1", telemetry=traces, docs_url=None, redoc_url=None)
        self._shapes = shapes
        add_api_page(self)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request: HEAD as GET without its body, and nothing that a page of another site sends."""
        if scope["type"] == "http":
            if scope["method"] == "HEAD":
                scope, send = {**scope, "method": "GET"}, partial(_send_head, send)
            elif scope["method"] != "GET" and is_cross_site(scope["headers"]):
                await rejection_problem(RequestRejectedError(RejectionCode.CROSS_SITE, _CROSS_SITE))(
                    scope, receive, send
                )
                return
        await super().__call__(scope, receive, send)

    def openapi(self) -> dict[str, Any]:
        """The schema."""
        schema = super().openapi()
        wanted = [(shape, "validation") for shape in self._shapes] + [(Problem, "serialization")]
        _, definitions = models_json_schema(wanted, ref_template="#/components/schemas/{model}")  # type: ignore[arg-type]
        schema["components"]["schemas"].update(definitions["$defs"])
        return schema


async def _send_head(send: Send, message: Message) -> None:
    await send({**message, "body": b""} if message["type"] == "http.response.body" else message)


def is_cross_site(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether a browser sent a request for a page of another site.

    Such a page may post forms and plain text to any address that its reader's machine can reach, this service's among
    them; browsers say that it does.
    """
    named = {name: value for name, value in headers if name in (b"sec-fetch-site", b"origin", b"host")}
    site, origin = named.get(b"sec-fetch-site"), named.get(b"origin")
    if site is not None:
        return site == b"cross-site"
    return origin is not None and origin.partition(b"://")[2] != named.get(b"host", b"")


class WatchedRoute(APIRoute):
    """A route whose endpoint is cancelled when the client hangs up."""

    def get_route_handler(self) -> Endpoint:
        """FastAPI's own, watched."""
        return partial(until_hangup, super().get_route_handler())


class BareRoute(APIRoute):
    """A documented route of an endpoint that takes the request and gives a response: FastAPI does no work on either.

    A client that hangs up is noticed here as well.
    """

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Call the endpoint, without the exit stacks that FastAPI keeps for dependencies.

        Other methods are refused as before.
        """
        if scope["method"] in (self.methods or ()):
            response = await until_hangup(self.endpoint, Request(scope, receive))
            await response(scope, receive, send)
        else:
            await super().handle(scope, receive, send)


def problem_responses(*statuses: HTTPStatus) -> dict[int | str, dict[str, Any]]:
    """Problem details, for ``responses``."""
    content = {"application/problem+json": {"schema": reference_to(Problem)}}
    return {status.value: {"description": status.phrase, "content": content} for status in statuses}


def score_body(json: type[BaseModel], form: type[BaseModel]) -> dict[str, Any]:
    """Required body for ``openapi_extra``: JSON of one shape, or a form whose field ``request`` has the other."""
    fields = {
        "type": "object",
        "required": ["request"],
        "properties": {"request": reference_to(form)},
        "additionalProperties": _FILE,
    }
    content = {"application/json": {"schema": reference_to(json)}, "multipart/form-data": {"schema": fields}}
    return {"requestBody": {"required": True, "content": content}}


def reference_to(shape: type[BaseModel]) -> dict[str, str]:
    """Where the schema of a shape stands in the document."""
    return {"$ref": f"#/components/schemas/{shape.__name__}"}
