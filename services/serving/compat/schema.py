"""OpenAPI of routes that read their bodies themselves."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from pydantic import BaseModel

from varl.services.serving.http.openapi import problem_responses

_ALWAYS = (HTTPStatus.UNAUTHORIZED, HTTPStatus.NOT_FOUND, HTTPStatus.UNPROCESSABLE_ENTITY)
_BODY = (
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.FORBIDDEN,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.GATEWAY_TIMEOUT,
)


def json_body(shape: type[BaseModel]) -> dict[str, Any]:
    """A required JSON body, for ``openapi_extra``."""
    return body_of("application/json", inlined(shape))


def body_of(media_type: str, schema: dict[str, Any], *, required: bool = True) -> dict[str, Any]:
    """A body of one media type, for ``openapi_extra``."""
    return {"requestBody": {"required": required, "content": {media_type: {"schema": schema}}}}


def refusals(*, body: bool = True, model_fails: bool = True, ready: bool = True) -> dict[int | str, dict[str, Any]]:
    """Problem details of a route that scores.

    ``body`` False for one that takes none, ``model_fails`` where a failed sample is a 500, ``ready`` False for one that
    answers whatever the model does.
    """
    statuses = [
        *_ALWAYS,
        *((HTTPStatus.SERVICE_UNAVAILABLE,) if ready else ()),
        *(_BODY if body else ()),
        *((HTTPStatus.INTERNAL_SERVER_ERROR,) if body and model_fails else ()),
    ]
    return problem_responses(*sorted(statuses))


def inlined(shape: type[BaseModel]) -> dict[str, Any]:
    """The JSON schema of a shape without references; the shape must not contain itself."""
    schema = shape.model_json_schema()
    definitions = schema.pop("$defs", {})

    def resolve(node: Any) -> Any:  # noqa: ANN401
        if isinstance(node, dict):
            name = node.get("$ref", "").rpartition("/")[2] if isinstance(node.get("$ref"), str) else ""
            return resolve(definitions[name]) if name else {key: resolve(value) for key, value in node.items()}
        return [resolve(value) for value in node] if isinstance(node, list) else node

    resolved: dict[str, Any] = resolve(schema)
    return resolved
