"""A client of varl.v1.RewardService that waits for a service to come up and retries what may be retried."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from enum import StrEnum
from typing import Any, Self

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from varl.launch.waits import Wait
from varl.services.serving.credentials import Credentials, channel_options
from varl.services.serving.tracing import outgoing
from varl.v1 import reward_pb2, reward_pb2_grpc

SERVICE = "varl.v1.RewardService"
MAX_MESSAGE_BYTES = 32 * 2**20
_BACKOFF = {"maxAttempts": 5, "initialBackoff": "0.2s", "maxBackoff": "5s", "backoffMultiplier": 2}
_OPTIONS = (
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    (
        "grpc.per_rpc_retry_buffer_size",
        MAX_MESSAGE_BYTES + 4096,
    ),  # 256 KiB by default: what does not fit is silently never retried
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.initial_reconnect_backoff_ms", 500),
    (
        "grpc.max_reconnect_backoff_ms",
        5_000,
    ),  # 120 s by default: a service that comes back would stand idle for as long
)


class Trouble(StrEnum):
    """Why a service gave no answer."""

    OVERLOADED = "overloaded"
    UNREACHABLE = "unreachable"
    DEADLINE = "deadline"


_TROUBLES = {
    grpc.StatusCode.UNAVAILABLE: Trouble.UNREACHABLE,
    grpc.StatusCode.CANCELLED: Trouble.UNREACHABLE,  # by a service that ends
    grpc.StatusCode.RESOURCE_EXHAUSTED: Trouble.OVERLOADED,
    grpc.StatusCode.DEADLINE_EXCEEDED: Trouble.DEADLINE,
}


# gRPC's own limits on sizes have the status of load, though the same message is never taken.
_OWN_LIMITS = ("message larger than max", "metadata size exceeds")


class RewardUnavailable(Exception):  # noqa: N818
    """The service did not answer in time, retries included; the same request may succeed later.

    ``retry_after``: seconds until then, where the service said so.
    """

    def __init__(self, message: str, trouble: Trouble = Trouble.UNREACHABLE, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.trouble, self.retry_after = trouble, retry_after


class RewardRejected(Exception):  # noqa: N818
    """The service answered, with ``code``, that the request as a whole is wrong.

    The same request will never succeed.
    """

    def __init__(self, code: grpc.StatusCode, detail: str) -> None:
        super().__init__(f"{code.name}: {detail}")
        self.code, self.detail = code, detail


class RewardClient:
    """Scores over gRPC. For use inside one event loop."""

    def __init__(
        self,
        target: str,
        timeout_s: float,
        *,
        credentials: Credentials = Credentials(),  # noqa: B008
        patient: bool = True,
    ) -> None:
        """Talk to the replicas behind a target, each request to one that says it serves.

        Args:
            target: a gRPC target, for example "127.0.0.1:50051" or "dns:///ocr:50051".
            timeout_s: bounds each request in seconds, retries included.
            credentials: its token is sent with each request; TLS, and mutual TLS, where they name an authority and a
                certificate.
            patient: wait for a service that is unavailable, and retry one that is overloaded; else fail at once.

        """
        self._target, self._timeout_s, self._patient = target, timeout_s, patient
        options = (*_OPTIONS, *channel_options(target), ("grpc.service_config", json.dumps(_service_config(patient))))
        tls, token = credentials.channel(), credentials.token
        self._channel = (
            grpc.aio.insecure_channel(target, options=options)
            if tls is None
            else grpc.aio.secure_channel(target, tls, options=options)
        )
        self._metadata = () if token is None else (("authorization", f"Bearer {token}"),)
        self._stub = reward_pb2_grpc.RewardServiceStub(self._channel)
        self._health = health_pb2_grpc.HealthStub(self._channel)

    async def score(
        self, samples: Sequence[reward_pb2.Sample], formula: str = "", timeout_s: float | None = None
    ) -> reward_pb2.ScoreResponse:
        """Score a batch, within ``timeout_s`` seconds if that is less than the client's.

        Errors of single samples stand in their results.

        Raises:
            RewardUnavailable: no answer within the timeout, or the service stayed overloaded.
            RewardRejected: the service refuses the request.

        """
        response: reward_pb2.ScoreResponse = await self._call(
            self._stub.Score, reward_pb2.ScoreRequest(samples=samples, formula=formula), timeout_s
        )
        return response

    async def info(self, timeout_s: float | None = None) -> reward_pb2.GetInfoResponse:
        """Name, model, formulas and limits of the service; raises as ``score`` does."""
        response: reward_pb2.GetInfoResponse = await self._call(
            self._stub.GetInfo, reward_pb2.GetInfoRequest(), timeout_s
        )
        return response

    async def _call(self, method: Any, request: Any, timeout_s: float | None) -> Any:  # noqa: ANN401
        seconds = self._timeout_s if timeout_s is None else min(timeout_s, self._timeout_s)
        try:
            return await method(
                request, timeout=seconds, wait_for_ready=self._patient, metadata=(*self._metadata, *outgoing())
            )
        except grpc.aio.AioRpcError as error:
            raise _failure(error) from error

    def connectivity(self) -> grpc.ChannelConnectivity:
        """READY where at least one replica says it serves; starts to connect where nothing has."""
        return self._channel.get_state(try_to_connect=True)

    async def connectivity_changed(self, last: grpc.ChannelConnectivity) -> None:
        """Return once ``connectivity`` is not ``last``."""
        await self._channel.wait_for_state_change(last)

    async def wait_ready(self, timeout_s: float) -> None:
        """Return once the service's health is SERVING; raises RewardUnavailable after ``timeout_s`` seconds.

        A wait of ten seconds is said in the log, and again every fifteen.
        """
        try:
            wait = Wait(f"the reward service at {self._target}", timeout_s)
            async with asyncio.timeout(timeout_s), wait.telling():
                while not await self._serving(timeout_s):  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
        except (TimeoutError, grpc.aio.AioRpcError) as error:
            raise RewardUnavailable(f"not serving within {timeout_s:g} s: {error}") from error

    async def _serving(self, timeout_s: float) -> bool:
        request = health_pb2.HealthCheckRequest(service=SERVICE)
        answer = await self._health.Check(request, timeout=timeout_s, wait_for_ready=True)
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    async def close(self) -> None:
        """Close the channel."""
        await self._channel.close(None)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def _service_config(patient: bool) -> dict[str, Any]:
    retried = ["UNAVAILABLE", "RESOURCE_EXHAUSTED"] if patient else ["UNAVAILABLE"]
    return {
        "loadBalancingConfig": [{"round_robin": {}}],
        "healthCheckConfig": {"serviceName": SERVICE},
        "methodConfig": [
            {"name": [{"service": SERVICE}], "retryPolicy": {**_BACKOFF, "retryableStatusCodes": retried}}
        ],
        # A failure costs one token, an answer gives half of one back: below half of them nothing is sent again.
        "retryThrottling": {"maxTokens": 100, "tokenRatio": 0.5},
    }


def _failure(error: grpc.aio.AioRpcError) -> RewardUnavailable | RewardRejected:
    detail = error.details() or ""
    trouble = _TROUBLES.get(error.code())
    if trouble is Trouble.OVERLOADED and any(limit in detail for limit in _OWN_LIMITS):
        return RewardRejected(grpc.StatusCode.INVALID_ARGUMENT, detail)
    if trouble is None:
        return RewardRejected(error.code(), detail)
    metadata: Any = error.trailing_metadata() or ()  # pairs, which the stubs have otherwise
    pushback = [str(value) for key, value in metadata if key == "grpc-retry-pushback-ms"]
    retry_after = int(pushback[0]) / 1000 if pushback and pushback[0].isdecimal() else None
    return RewardUnavailable(f"{error.code().name}: {detail}", trouble, retry_after)
