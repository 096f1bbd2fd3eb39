"""Server reflection: which services there are and of which messages, for tools such as grpcurl."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc
from google.protobuf.message import Message
from grpc_reflection.v1alpha import reflection, reflection_pb2

from varl.services.serving.grpc.wire import Context, parsed_each, to_bytes


class Reflection:
    """The standard reflection service for the services that are named, itself included."""

    def __init__(self, services: Sequence[str]) -> None:
        # The stubs lack the asyncio half.
        self._servicer: Any = reflection.aio.ReflectionServicer((*services, reflection.SERVICE_NAME))  # type: ignore[attr-defined]

    def add_to(self, server: grpc.aio.Server) -> None:
        """Serve reflection from ``server``, which is not started yet."""
        handler = grpc.stream_stream_rpc_method_handler(self._info, response_serializer=to_bytes)
        methods = grpc.method_handlers_generic_handler(reflection.SERVICE_NAME, {"ServerReflectionInfo": handler})
        server.add_generic_rpc_handlers((methods,))

    async def _info(self, requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[Message]:
        asked = parsed_each(reflection_pb2.ServerReflectionRequest, requests, context)
        async for answer in self._servicer.ServerReflectionInfo(asked, context):
            yield answer
