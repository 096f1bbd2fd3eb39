"""What one caller of the gRPC API may take: counts before objects, time for a message, forms of a token."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from base64 import b64encode
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.support.compat_rig import ToyScorer, grey
from tests.support.ocr_builders import grpc_sample
from varl.services.serving.access import BearerInterceptor, Tokens
from varl.services.serving.grpc.counts import MAX_SAMPLE_FIELDS
from varl.services.serving.grpc.health import Health
from varl.services.serving.grpc.intake import Intake
from varl.services.serving.grpc.reflection import Reflection
from varl.services.serving.grpc.server import SERVICE_NAME, RewardServicer, server_options
from varl.services.serving.service import ScoringService
from varl.services.serving.settings import ServingSettings
from varl.v1 import reward_pb2, reward_pb2_grpc

GOOD = reward_pb2.ScoreRequest(samples=[grpc_sample("a", "x", grey(51))])
SCORE = "/varl.v1.RewardService/Score"
INVALID, REFUSED = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNAUTHENTICATED


@dataclass
class Rig:
    channel: grpc.aio.Channel
    refused: Counter[str]

    async def score(self, data: bytes, **options: Any) -> reward_pb2.ScoreResponse:  # noqa: ANN401
        """The answer to a message as it is."""
        call = self.channel.unary_unary(SCORE, bytes, reward_pb2.ScoreResponse.FromString)
        answer: reward_pb2.ScoreResponse = await call(data, timeout=120, **options)
        return answer

    async def code(self, data: bytes, **options: Any) -> tuple[grpc.StatusCode, str]:  # noqa: ANN401
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await self.score(data, **options)
        return refusal.value.code(), refusal.value.details() or ""

    def silent(self, method: str = SCORE) -> grpc.aio.StreamUnaryCall[bytes, bytes]:
        """A call whose message never comes."""

        async def nothing() -> AsyncIterator[bytes]:
            await asyncio.Event().wait()
            yield b""

        return self.channel.stream_unary(method, bytes, bytes)(nothing(), timeout=120)


@asynccontextmanager
async def serving(intake: Intake | None = None, tokens: Tokens | None = None) -> AsyncIterator[Rig]:
    settings = ServingSettings.model_validate({"max_samples": 64})
    service = ScoringService(settings, ToyScorer("toy"))
    await service.start()
    refused = Counter[str]()
    gate = [BearerInterceptor(tokens, lambda: refused.update(["grpc"]))] if tokens else []
    server = grpc.aio.server(options=server_options(settings.max_request_bytes, 64), interceptors=gate)
    server.add_generic_rpc_handlers((RewardServicer(service, intake or Intake(4)).handler,))
    await Health(SERVICE_NAME).add_to(server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    options = [("grpc.max_send_message_length", -1), ("grpc.enable_http_proxy", 0)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
        yield Rig(channel, refused)
    await server.stop(None)
    await service.close()


def sample(fields: bytes) -> bytes:
    """A request of one sample with these fields."""
    return b"\x0a" + varint(len(fields)) + fields


def varint(value: int) -> bytes:
    return reward_pb2.GetInfoResponse(max_samples=value).SerializeToString()[1:]


MANY = {
    "empty samples": (b"\x0a\x00" * 1_000_000, "samples: more than 64 given"),
    "just too many": (b"\x0a\x00" * 65, "samples: 65 given, 1 to 64 are taken"),
    "none": (b"", "samples: 0 given"),
    "target words": (sample(b"\x22\x00" * 1_000_000), f"more than {MAX_SAMPLE_FIELDS} fields"),
    "numbers": (b"\x18\x01" * 1_000_000, "samples: more than 64 given"),
    "metadata": (sample(b"\x2a\x80\x80\x80\x01" + b"\x0a\x04\x0a\x00\x12\x00" * 349_525 + b"\x0a\x00"), "metadata"),
    "groups": (sample(b"\x0b\x0c" * 1_000_000), "group"),
}


@pytest.mark.parametrize(("data", "detail"), MANY.values(), ids=MANY)
async def test_parts_are_counted_before_they_are_made(data: bytes, detail: str) -> None:
    async with serving() as rig:
        code, said = await rig.code(data)
        assert code is INVALID
        assert detail in said
        assert len(said) < 2100


async def test_a_large_sound_request_passes_the_count() -> None:
    padded = grey(51) + b"\0" * 100_000  # more than is parsed uncounted
    words = [grpc_sample(str(n), "x", padded, ["w"] * 64) for n in range(64)]
    async with serving() as rig:
        answer = await rig.score(reward_pb2.ScoreRequest(samples=words, formula="plain").SerializeToString())
        assert [result.score.value for result in answer.results] == [64.0] * 64


@pytest.mark.parametrize("cut", [1, 5, 70_000, 99_999])
async def test_a_large_message_that_is_cut_is_malformed(cut: int) -> None:
    data = reward_pb2.ScoreRequest(samples=[grpc_sample("a", "x", b"\0" * 100_000)]).SerializeToString()
    async with serving() as rig:
        assert (await rig.code(data[:-cut]))[0] is INVALID


async def test_ids_are_bounded_and_told_back_short() -> None:
    async with serving() as rig:
        for names, detail in (
            (["x" * 257], "257 characters, at most 256"),
            (["y" * 256] * 2, "stands twice"),
            ([""], "is empty"),
        ):
            request = reward_pb2.ScoreRequest(samples=[grpc_sample(name, "x", grey(51)) for name in names])
            code, said = await rig.code(request.SerializeToString())
            assert code is INVALID
            assert detail in said
            assert len(said) < 300
        request = reward_pb2.ScoreRequest(samples=GOOD.samples, formula="f" * 10**6)
        code, said = await rig.code(request.SerializeToString())
        assert (code, len(said) < 300) == (INVALID, True)


async def test_what_is_too_large_is_never_said_to_be_load() -> None:
    async with serving() as rig:
        assert (await rig.code(b"\x0a" + varint(40 * 2**20) + bytes(40 * 2**20)))[0] is INVALID
        long = (("x-long", "y" * 30_000),)
        assert (await rig.score(GOOD.SerializeToString(), metadata=long)).results[0].score.value == pytest.approx(0.2)


async def test_a_compressed_message_is_not_unfolded() -> None:
    async with serving() as rig:
        code, _ = await rig.code(bytes(30 * 2**20), compression=grpc.Compression.Gzip)
        assert code in (grpc.StatusCode.UNIMPLEMENTED, INVALID)


async def test_few_messages_may_come_slowly_at_a_time() -> None:
    async with serving(Intake(slots=1, seconds=600)) as rig:
        silent = [rig.silent() for _ in range(4)]
        assert (await rig.score(GOOD.SerializeToString())).results[0].score.value == pytest.approx(0.2)
        codes = [asyncio.ensure_future(call.code()) for call in silent]
        while sum(code.done() for code in codes) < 3:  # whichever came first is waited for
            await asyncio.wait(codes, return_when=asyncio.FIRST_COMPLETED, timeout=0.05)
        refused = [code.result() for code in codes if code.done()]
        assert refused == [grpc.StatusCode.RESOURCE_EXHAUSTED] * 3
        (waiting,) = [call for call, code in zip(silent, codes, strict=True) if not code.done()]
        assert (await rig.score(GOOD.SerializeToString())).results[0].score.value == pytest.approx(0.2)
        waiting.cancel()
        await asyncio.wait(codes)


async def test_no_message_is_waited_for_without_end() -> None:
    async with serving(Intake(slots=9, seconds=0.6)) as rig:
        assert await rig.silent().code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert (await rig.score(GOOD.SerializeToString())).results[0].score.value == pytest.approx(0.2)


async def test_silent_and_long_questions_after_health_are_ended_too() -> None:
    async with serving() as rig:
        silent = [rig.silent("/grpc.health.v1.Health/Check") for _ in range(6)]
        stub = health_pb2_grpc.HealthStub(rig.channel)
        assert (await stub.Check(health_pb2.HealthCheckRequest(), timeout=60)).status
        assert grpc.StatusCode.RESOURCE_EXHAUSTED in [await call.code() for call in silent[2:]]
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await stub.Check(health_pb2.HealthCheckRequest(service="s" * 5000), timeout=60)
        assert refusal.value.code() is INVALID
        for call in silent:
            call.cancel()


async def test_a_message_without_a_token_is_not_read() -> None:
    async with serving(tokens=Tokens(("sesame",))) as rig:
        for method in (SCORE, "/varl.v1.RewardService/GetInfo", "/varl.v1.RewardService/No"):
            assert await rig.silent(method).code() is REFUSED
        assert (await rig.code(bytes(30 * 2**20)))[0] is REFUSED
        assert rig.refused["grpc"] == 4


PASSWORD = b64encode(b"anybody:sesame").decode()
FORMS = {
    "Bearer sesame": True,
    "bearer sesame": True,
    "BEARER  sesame": True,
    f"Basic {PASSWORD}": True,
    f"basic {PASSWORD}": True,
    f"Basic {b64encode(b':sesame').decode()}": True,
    f"Basic {b64encode(b'sesame:').decode()}": False,
    f"Basic {b64encode(b'sesame').decode()}": False,
    "Basic sesame": False,
    "Basic": False,
    "Bearer": False,
    "Bearer ": False,
    "sesame": False,
    "Token sesame": False,
    "Bearer sesame sesame": False,
    "": False,
}


@pytest.mark.parametrize(("header", "good"), FORMS.items())
def test_forms_of_a_token(header: str, good: bool) -> None:
    assert Tokens(("other", "sesame")).allow(header.encode()) is good


@pytest.mark.parametrize("header", [f"Basic {PASSWORD}", "bearer sesame"])
async def test_each_form_opens_the_grpc_api(header: str) -> None:
    async with serving(tokens=Tokens(("sesame",))) as rig:
        answer = await rig.score(GOOD.SerializeToString(), metadata=(("authorization", header),))
        assert answer.results[0].score.value == pytest.approx(0.2)


async def test_messages_without_end_are_no_reason_to_parse() -> None:
    stub: Any = reward_pb2_grpc.RewardServiceStub
    async with serving() as rig:
        assert (await stub(rig.channel).GetInfo(reward_pb2.GetInfoRequest(), timeout=60)).reward == "toy"
        assert await rig.silent("/varl.v1.RewardService/GetInfo").code() is grpc.StatusCode.OK


NOISE = b"x" * 2_000_000
UNREAD = reward_pb2.ScoreRequest(samples=[grpc_sample("a", "x", NOISE)]).SerializeToString()


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(b"\x0a\x00" * 1_000_000, id="a million samples"),
        pytest.param(b"\xff" * 2_000_000, id="no message"),
        pytest.param(UNREAD, id="no image"),
        pytest.param(UNREAD * 17, id="too large"),
        pytest.param(reward_pb2.ScoreRequest(formula=NOISE.decode()).SerializeToString(), id="no such formula"),
    ],
)
async def test_a_message_is_forgotten_with_its_call(message: bytes) -> None:
    async with serving() as rig:
        held = await held_after(8, lambda: rig.score(message))
    assert held < 4 * len(message)  # the last ones may still be on their way out


async def test_a_message_of_reflection_is_forgotten_with_its_call() -> None:
    server = grpc.aio.server()
    Reflection((SERVICE_NAME,)).add_to(server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    path = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
    noise = b"\xff" * 2_000_000

    async def messages() -> AsyncIterator[bytes]:
        yield noise

    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.stream_stream(path, bytes, bytes)
        held = await held_after(8, lambda: call(messages(), timeout=120).read())
    await server.stop(None)
    assert held < 4 * len(noise)


async def held_after(calls: int, call: Callable[[], Awaitable[object]]) -> int:
    """Bytes that Python holds after so many refused calls.

    Without the garbage collector, which counts objects: a message of megabytes is a few of them.
    """
    gc.disable()
    tracemalloc.start()
    try:
        for _ in range(calls):
            with suppress(grpc.aio.AioRpcError):
                await call()
        return tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
        gc.enable()
