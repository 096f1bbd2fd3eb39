"""The client against a real gRPC server that fails on purpose."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import grpc
import pytest

from tests.support.certificates import self_signed
from tests.support.ocr_builders import grpc_sample
from varl.services.serving.credentials import Credentials
from varl.services.serving.grpc.client import RewardClient, RewardRejected, RewardUnavailable, Trouble
from varl.services.serving.grpc.health import Health
from varl.services.serving.grpc.server import SERVICE_NAME
from varl.v1 import reward_pb2, reward_pb2_grpc

Context = grpc.aio.ServicerContext[reward_pb2.ScoreRequest, reward_pb2.ScoreResponse]


class Failing(reward_pb2_grpc.RewardServiceServicer):
    """Aborts with the given codes, one a call, then answers the number of bytes it got."""

    def __init__(self, codes: Sequence[grpc.StatusCode]) -> None:
        self.codes = list(codes)
        self.calls = 0
        self.tokens: list[str] = []

    async def Score(self, request: reward_pb2.ScoreRequest, context: Context) -> reward_pb2.ScoreResponse:  # noqa: N802
        self.calls += 1
        self.tokens += [str(value) for key, value in cast(Any, context.invocation_metadata()) if key == "authorization"]
        if self.codes:
            await context.abort(self.codes.pop(0), "on purpose", (("grpc-retry-pushback-ms", "10"),))
        return reward_pb2.ScoreResponse(reward=str(len(request.samples[0].image)))


@asynccontextmanager
async def serving(
    servicer: Failing, healthy: bool = True, credentials: grpc.ServerCredentials | None = None
) -> AsyncIterator[tuple[str, Health]]:
    server = grpc.aio.server(options=[("grpc.max_receive_message_length", 64 * 2**20)])
    reward_pb2_grpc.add_RewardServiceServicer_to_server(servicer, server)
    health = Health(SERVICE_NAME)
    await health.add_to(server)
    await health.set_serving(healthy)
    place = "127.0.0.1:0"
    port = server.add_insecure_port(place) if credentials is None else server.add_secure_port(place, credentials)
    await server.start()
    try:
        yield f"127.0.0.1:{port}", health
    finally:
        await server.stop(None)


@pytest.mark.parametrize("size", [1000, 4 * 2**20])
@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED])
async def test_load_and_restarts_are_retried_also_for_big_images(size: int, code: grpc.StatusCode) -> None:
    servicer = Failing([code, code])
    async with serving(servicer) as (target, _), RewardClient(target, 30) as client:
        answer = await client.score([grpc_sample("a", "p", b"x" * size)])
    assert answer.reward == str(size)
    assert servicer.calls == 3


async def test_retries_end_and_say_unavailable() -> None:
    servicer = Failing([grpc.StatusCode.UNAVAILABLE] * 50)
    async with serving(servicer) as (target, _), RewardClient(target, 30) as client:
        with pytest.raises(RewardUnavailable, match="on purpose"):
            await client.score([grpc_sample("a", "p", b"x")])
    assert servicer.calls == 5


async def test_a_refused_request_is_not_retried() -> None:
    servicer = Failing([grpc.StatusCode.INVALID_ARGUMENT])
    async with serving(servicer) as (target, _), RewardClient(target, 30) as client:
        with pytest.raises(RewardRejected, match="INVALID_ARGUMENT: on purpose") as rejection:
            await client.score([grpc_sample("a", "p", b"x")])
    assert servicer.calls == 1
    assert rejection.value.code is grpc.StatusCode.INVALID_ARGUMENT


async def test_an_impatient_client_hands_overload_on_with_the_time_to_come_back() -> None:
    servicer = Failing([grpc.StatusCode.RESOURCE_EXHAUSTED])
    async with serving(servicer) as (target, _), RewardClient(target, 30, patient=False) as client:
        with pytest.raises(RewardUnavailable) as failure:
            await client.score([grpc_sample("a", "p", b"x")])
    assert servicer.calls == 1
    assert (failure.value.trouble, failure.value.retry_after) == (Trouble.OVERLOADED, 0.01)


async def test_an_impatient_client_does_not_wait_for_who_is_away_or_unwell() -> None:
    async with serving(Failing([])) as (gone, _):
        pass
    async with serving(Failing([]), healthy=False) as (unwell, _):
        for target in (gone, unwell):
            async with RewardClient(target, 600, patient=False) as client:
                with pytest.raises(RewardUnavailable) as failure:
                    await client.score([grpc_sample("a", "p", b"x")])
            assert failure.value.trouble is Trouble.UNREACHABLE


async def test_a_call_has_a_deadline_of_its_own() -> None:
    async with serving(Failing([]), healthy=False) as (target, _), RewardClient(target, 600) as client:
        with pytest.raises(RewardUnavailable) as failure:
            await client.score([grpc_sample("a", "p", b"x")], timeout_s=0.2)
    assert failure.value.trouble is Trouble.DEADLINE


async def test_only_replicas_that_say_they_serve_are_asked() -> None:
    sick, well = Failing([]), Failing([])
    async with (
        serving(sick, healthy=False) as (first, _),
        serving(well) as (second, _),
        RewardClient(f"ipv4:{first},{second}", 30) as client,
    ):
        for _ in range(4):
            await client.score([grpc_sample("a", "p", b"x")])
    assert (sick.calls, well.calls) == (0, 4)


async def test_the_token_goes_with_each_request() -> None:
    servicer = Failing([])
    async with serving(servicer) as (target, _), RewardClient(target, 30, credentials=Credentials("secret")) as client:
        await client.score([grpc_sample("a", "p", b"x")])
    assert servicer.tokens == ["Bearer secret"]


async def test_nobody_there_is_unavailable_after_the_timeout() -> None:
    async with serving(Failing([])) as (target, _):
        pass
    async with RewardClient(target, 0.3) as client:
        with pytest.raises(RewardUnavailable):
            await client.score([grpc_sample("a", "p", b"x")])
        with pytest.raises(RewardUnavailable):
            await client.wait_ready(0.3)


async def test_wait_ready_waits_for_health() -> None:
    async with serving(Failing([]), healthy=False) as (target, health), RewardClient(target, 5) as client:
        with pytest.raises(RewardUnavailable):
            await client.wait_ready(0.3)
        await health.set_serving(True)
        await client.wait_ready(5)


async def test_over_tls_only_the_authority_named_is_trusted() -> None:
    key, certificate = self_signed()
    credentials = grpc.ssl_server_credentials([(key, certificate)])
    async with serving(Failing([]), credentials=credentials) as (target, _):
        async with RewardClient(target, 30, credentials=Credentials("secret", certificate)) as client:
            assert (await client.score([grpc_sample("a", "p", b"x")])).reward == "1"
        for ca in (None, self_signed()[1]):
            async with RewardClient(target, 5, credentials=Credentials(ca=ca), patient=False) as client:
                with pytest.raises(RewardUnavailable):
                    await client.score([grpc_sample("a", "p", b"x")])
