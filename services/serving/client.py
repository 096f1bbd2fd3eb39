"""A client of varl.v1.RewardService that waits for a service to come up and retries what may be retried."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Self

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from varl.v1 import reward_pb2, reward_pb2_grpc

MAX_MESSAGE_BYTES = 32 * 2**20
_RETRY = {
    "maxAttempts": 5,
    "initialBackoff": "0.2s",
    "maxBackoff": "5s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED"],
}
_SERVICE_CONFIG = {
    "loadBalancingConfig": [{"round_robin": {}}],
    "methodConfig": [{"name": [{"service": "varl.v1.RewardService"}], "retryPolicy": _RETRY}],
}
_OPTIONS = (
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
    ("grpc.per_rpc_retry_buffer_size", MAX_MESSAGE_BYTES + 4096),  # 256 KiB by default: what does not fit is silently never retried
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 20_000),
)
_UNAVAILABLE = frozenset(
    {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.CANCELLED}
)


class RewardUnavailable(Exception):  # noqa: N818 - the name reads as the state it reports
    """The service did not answer in time, retries included; the same request may succeed later."""


class RewardRejected(Exception):  # noqa: N818
    """The service answered that the request as a whole is wrong; the same request will never succeed."""


class RewardClient:
    """Scores over gRPC. For use inside one event loop.

    ``target`` is a gRPC target, for example "127.0.0.1:50051" or "dns:///ocr:50051"; ``timeout_s`` bounds each request, retries included.
    """

    def __init__(self, target: str, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._channel = grpc.aio.insecure_channel(target, options=_OPTIONS)
        self._stub = reward_pb2_grpc.RewardServiceStub(self._channel)
        self._health = health_pb2_grpc.HealthStub(self._channel)

    async def score(self, samples: Sequence[reward_pb2.Sample], formula: str = "") -> reward_pb2.ScoreResponse:
        """Score a batch; errors of single samples stand in their results.

        Raises:
            RewardUnavailable: no answer within the timeout, or the service stayed overloaded.
            RewardRejected: the service refuses the request.

        """
        request = reward_pb2.ScoreRequest(samples=samples, formula=formula)
        try:
            response: reward_pb2.ScoreResponse = await self._stub.Score(request, timeout=self._timeout_s, wait_for_ready=True)
        except grpc.aio.AioRpcError as error:
            kind = RewardUnavailable if error.code() in _UNAVAILABLE else RewardRejected
            raise kind(f"{error.code().name}: {error.details()}") from error
        return response

    async def wait_ready(self, timeout_s: float) -> None:
        """Return once the service's health is SERVING; raises RewardUnavailable after ``timeout_s`` seconds."""
        try:
            async with asyncio.timeout(timeout_s):
                while not await self._serving(timeout_s):  # noqa: ASYNC110 - the state lies in another process
                    await asyncio.sleep(0.1)
        except (TimeoutError, grpc.aio.AioRpcError) as error:
            raise RewardUnavailable(f"not serving within {timeout_s:g} s: {error}") from error

    async def _serving(self, timeout_s: float) -> bool:
        request = health_pb2.HealthCheckRequest(service="varl.v1.RewardService")
        answer = await self._health.Check(request, timeout=timeout_s, wait_for_ready=True)
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    async def close(self) -> None:
        """Close the channel."""
        await self._channel.close(None)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
