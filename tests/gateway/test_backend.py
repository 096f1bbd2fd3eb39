"""What the gateway makes of a service that answers wrongly, refuses its token, or knows more than it does."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import grpc
import pytest

from tests.support.gateway_rig import Rig, gateway
from varl.services.gateway.messages import BadAnswerError, batch_result
from varl.services.serving.grpc.health import Health
from varl.services.serving.grpc.server import SERVICE_NAME
from varl.services.serving.scoring import ErrorCode, RawSample, SampleError, SampleScore
from varl.v1 import reward_pb2, reward_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]
SAMPLES = (RawSample("a", "p", b"x"), RawSample("b", "p", SampleError(ErrorCode.BAD_IMAGE, "ours")))


def response(*results: reward_pb2.Result) -> reward_pb2.ScoreResponse:
    return reward_pb2.ScoreResponse(model=reward_pb2.Model(engine="e", name="n", revision="r"), results=results)


def scored(name: str, value: float) -> reward_pb2.Result:
    return reward_pb2.Result(id=name, score=reward_pb2.Score(value=value))


def failed(name: str, code: int) -> reward_pb2.Result:
    return reward_pb2.Result(id=name, error=reward_pb2.ScoreError(code=cast(Any, code), detail="theirs"))


def test_an_image_that_failed_here_keeps_its_error() -> None:
    result = batch_result(response(scored("a", 2.0), failed("b", 1)), SAMPLES)
    assert result.outcomes == (SampleScore(2.0, {}), SampleError(ErrorCode.BAD_IMAGE, "ours"))
    assert result.model.engine == "e"


@pytest.mark.parametrize("names", [(), ("a",), ("b", "a"), ("a", "b", "c")])
def test_results_of_other_samples_are_no_answer(names: tuple[str, ...]) -> None:
    with pytest.raises(BadAnswerError):
        batch_result(response(*(scored(name, 1.0) for name in names)), SAMPLES)


@pytest.mark.parametrize(
    ("result", "code"),
    [
        (scored("a", float("nan")), ErrorCode.NOT_FINITE),
        (
            reward_pb2.Result(id="a", score=reward_pb2.Score(value=1.0, components={"x": float("inf")})),
            ErrorCode.NOT_FINITE,
        ),
        (reward_pb2.Result(id="a"), ErrorCode.ENGINE_FAILED),
        (failed("a", 3), ErrorCode.NO_TARGET),
        (failed("a", 0), ErrorCode.ENGINE_FAILED),
        (failed("a", 99), ErrorCode.ENGINE_FAILED),
    ],
)
def test_what_is_no_score_is_an_error(result: reward_pb2.Result, code: ErrorCode) -> None:
    (outcome,) = batch_result(response(result), SAMPLES[:1]).outcomes
    assert isinstance(outcome, SampleError)
    assert outcome.code is code


class Scripted(reward_pb2_grpc.RewardServiceServicer):
    """Aborts with ``code``, or answers with results of no sample; wants a token where ``token`` is set."""

    def __init__(self, code: grpc.StatusCode | None = None, token: str = "") -> None:
        self.code, self.token = code, token

    async def GetInfo(self, request: reward_pb2.GetInfoRequest, context: Context) -> reward_pb2.GetInfoResponse:  # noqa: N802
        await self._check(context)
        return reward_pb2.GetInfoResponse(reward="toy", max_samples=8, max_image_bytes=1000)

    async def Score(self, request: reward_pb2.ScoreRequest, context: Context) -> reward_pb2.ScoreResponse:  # noqa: N802
        await self._check(context)
        if self.code is not None:
            await context.abort(self.code, "on purpose", (("grpc-retry-pushback-ms", "20"),))
        return response()

    async def _check(self, context: Context) -> None:
        sent = dict(cast(Any, context.invocation_metadata())).get("authorization", "")
        if self.token and sent != f"Bearer {self.token}":
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "a token is wanted")


@asynccontextmanager
async def scripted(servicer: Scripted) -> AsyncIterator[int]:
    server, health = grpc.aio.server(), Health(SERVICE_NAME)
    reward_pb2_grpc.add_RewardServiceServicer_to_server(servicer, server)
    await health.add_to(server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    await health.set_serving(True)
    yield port
    await server.stop(None)


@asynccontextmanager
async def before(servicer: Scripted, **changes: Any) -> AsyncIterator[Rig]:  # noqa: ANN401
    async with scripted(servicer) as port, gateway({"toy": port}, **changes) as rig:
        yield rig


@pytest.mark.parametrize(
    ("grpc_code", "status", "code", "retry_after"),
    [
        (None, 502, "backend_failed", None),
        (grpc.StatusCode.INTERNAL, 502, "backend_failed", None),
        (grpc.StatusCode.UNIMPLEMENTED, 502, "backend_failed", None),
        (grpc.StatusCode.UNAUTHENTICATED, 502, "backend_failed", None),
        (grpc.StatusCode.INVALID_ARGUMENT, 422, "invalid_request", None),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, 429, "overloaded", "1"),
        (grpc.StatusCode.UNAVAILABLE, 503, "not_ready", "1"),
        (grpc.StatusCode.DEADLINE_EXCEEDED, 504, "deadline_exceeded", None),
    ],
)
async def test_each_way_to_fail_has_its_status(
    grpc_code: grpc.StatusCode | None, status: int, code: str, retry_after: str | None
) -> None:
    async with before(Scripted(grpc_code)) as rig:
        answer = await rig.score()
    assert (answer.status_code, answer.json()["code"], answer.headers.get("retry-after")) == (status, code, retry_after)
    assert answer.json()["retryable"] is (status != 422)
    assert answer.json()["detail"].startswith("toy: ")


async def test_the_token_of_the_file_opens_the_service(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret\n")
    async with before(Scripted(token="secret"), backend_token_file=tmp_path / "token") as rig:
        assert (await rig.score()).json()["detail"] == "toy: 0 results that are not those of the 1 samples"


async def test_a_service_that_refuses_the_token_says_so_and_the_other_serves(caplog: pytest.LogCaptureFixture) -> None:
    async with (
        scripted(Scripted()) as first,
        scripted(Scripted(token="secret")) as second,
        gateway({"first": first, "second": second}) as rig,
    ):
        await rig.until("second", "refusing")
        answer = await rig.score(rewards=["second"])
    assert (answer.status_code, answer.json()["code"]) == (503, "not_ready")
    assert "UNAUTHENTICATED" in caplog.text
