"""GET /metrics alone, for processes that serve nothing else over HTTP."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route


def metrics_app(render: Callable[[], bytes]) -> Starlette:
    """An app that answers GET and HEAD of /metrics with what ``render`` gives."""

    async def metrics(_: Request) -> Response:
        return Response(render(), media_type=CONTENT_TYPE_LATEST)

    return Starlette(routes=[Route("/metrics", metrics)])
