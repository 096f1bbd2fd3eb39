"""grpc.health.v1 for the whole server and for its one service."""

from __future__ import annotations

from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2

from varl.services.serving.grpc.intake import Intake
from varl.services.serving.grpc.wire import Context, Requests, answered, parsed, to_bytes
from varl.services.serving.status import RejectionCode, RequestRejectedError

_SLOTS = 2  # no probe is slow to come
_MAX_BYTES = 1024  # of a request, which holds the name of a service


class Health:
    """The standard health service; NOT_SERVING until told otherwise, where the stock servicer begins as SERVING."""

    def __init__(self, service: str) -> None:
        """``service``: the full name that clients ask for beside "", the whole server."""
        self._names = ("", service)
        self._intake = Intake(_SLOTS)
        self._servicer: Any = health.aio.HealthServicer()  # type: ignore[attr-defined] # the stubs lack the asyncio half

    async def add_to(self, server: grpc.aio.Server) -> None:
        """Serve health from ``server``, which is not started yet."""
        await self.set_serving(False)
        handlers = {
            "Check": grpc.stream_unary_rpc_method_handler(self._check, response_serializer=to_bytes),
            "Watch": grpc.stream_stream_rpc_method_handler(self._watch, response_serializer=to_bytes),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(health.SERVICE_NAME, handlers),))

    async def _check(self, requests: Requests, context: Context) -> health_pb2.HealthCheckResponse:
        return await self._servicer.Check(await answered(context, self._request(requests)), context)

    async def _watch(self, requests: Requests, context: Context) -> None:
        await self._servicer.Watch(await answered(context, self._request(requests)), context)

    async def _request(self, requests: Requests) -> health_pb2.HealthCheckRequest:
        data = await self._intake.message(requests)
        if len(data) > _MAX_BYTES:
            raise RequestRejectedError(RejectionCode.REQUEST_TOO_LARGE, f"more than {_MAX_BYTES} bytes")
        return parsed(health_pb2.HealthCheckRequest, data)

    async def set_serving(self, serving: bool) -> None:
        """Say whether requests are taken."""
        states = health_pb2.HealthCheckResponse
        for name in self._names:
            await self._servicer.set(name, states.SERVING if serving else states.NOT_SERVING)

    async def shut_down(self) -> None:
        """Say NOT_SERVING from here to the end."""
        await self._servicer.enter_graceful_shutdown()
