"""Bytes on the wire that are no request, nearly one, or no HTTP at all.

Each has a documented status, and the service goes on.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.serving.payload import TINY
from tests.support.toy_process import ToyProcess, toy_service
from varl.v1 import reward_pb2, reward_pb2_grpc

DOCUMENTED = {grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT}
VALID = reward_pb2.ScoreRequest(
    samples=[
        reward_pb2.Sample(id="a", prompt="says 'BREAD'", image=TINY, target_words=["bread", "ü"]),
        reward_pb2.Sample(id="b", image=TINY[:30]),
    ],
    formula="plain",
).SerializeToString()


@pytest.fixture(scope="module")
def service() -> Iterator[ToyProcess]:
    with toy_service("--reflection") as running:
        yield running


@pytest.fixture(scope="module")
def channel(service: ToyProcess) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(service.grpc) as opened:
        yield opened


def status(
    channel: grpc.Channel, message: bytes, method: str = "/varl.v1.RewardService/Score"
) -> tuple[grpc.StatusCode, str]:
    call = channel.unary_unary(method, request_serializer=None, response_deserializer=None)
    try:
        call(message, timeout=240)
    except grpc.RpcError as error:
        return error.code(), error.details() or ""
    return grpc.StatusCode.OK, ""


def check(channel: grpc.Channel, message: bytes) -> None:
    code, detail = status(channel, message)
    assert code in DOCUMENTED, (message, code, detail)


def still_serves(service: ToyProcess) -> None:
    """On a new connection."""
    with grpc.insecure_channel(service.grpc) as channel:
        answer = reward_pb2_grpc.RewardServiceStub(channel).Score(
            reward_pb2.ScoreRequest.FromString(VALID), timeout=240
        )
    assert [result.WhichOneof("outcome") for result in answer.results] == ["score", "error"]


@settings(max_examples=200, derandomize=True)
@given(st.binary(max_size=400))
def test_random_bytes(channel: grpc.Channel, data: bytes) -> None:
    check(channel, data)


@settings(max_examples=300, derandomize=True)
@given(st.integers(0, len(VALID) - 1), st.binary(max_size=6), st.integers(0, 20))
def test_a_valid_message_with_a_part_replaced(channel: grpc.Channel, place: int, junk: bytes, cut: int) -> None:
    check(channel, VALID[:place] + junk + VALID[place + cut :])


@settings(max_examples=100, derandomize=True)
@given(st.integers(0, len(VALID)), st.integers(0, len(VALID)))
def test_a_valid_message_cut_and_spliced(channel: grpc.Channel, end: int, begin: int) -> None:
    check(channel, VALID[:end] + VALID[begin:])


@pytest.mark.parametrize(
    "method",
    ["/varl.v1.RewardService/Nope", "/nope", "/varl.v1.RolloutService/Generate", "/grpc.health.v1.Health/List", "//"],
)
def test_what_is_not_served_says_so(channel: grpc.Channel, method: str) -> None:
    assert status(channel, VALID, method)[0] is grpc.StatusCode.UNIMPLEMENTED


HEALTH = health_pb2.HealthCheckRequest(service="varl.v1.RewardService").SerializeToString()
REFLECTION = reflection_pb2.ServerReflectionRequest(
    host="ü", file_containing_symbol="varl.v1.RewardService"
).SerializeToString()


def first_status(channel: grpc.Channel, method: str, *messages: bytes) -> grpc.StatusCode:
    """Of a method that answers with a stream: OK once it has given a message."""
    call: Any = channel.stream_stream(method, request_serializer=None, response_deserializer=None)(
        iter(messages), timeout=240
    )
    try:
        next(call, None)
    except grpc.RpcError as error:
        return error.code()
    call.cancel()
    return grpc.StatusCode.OK


def mangled(valid: bytes) -> st.SearchStrategy[bytes]:
    """Random bytes, and a message with a part replaced by some."""
    replaced = st.tuples(st.integers(0, len(valid)), st.binary(max_size=6), st.integers(0, 20))
    return st.binary(max_size=200) | replaced.map(lambda cut: valid[: cut[0]] + cut[1] + valid[cut[0] + cut[2] :])


@settings(max_examples=200, derandomize=True)
@given(mangled(HEALTH))
def test_health_takes_any_bytes(channel: grpc.Channel, data: bytes) -> None:
    codes = {
        status(channel, data, "/grpc.health.v1.Health/Check")[0],
        first_status(channel, "/grpc.health.v1.Health/Watch", data),
    }
    try:
        known = health_pb2.HealthCheckRequest.FromString(data).service in ("", "varl.v1.RewardService")
    except DecodeError:
        assert codes == {grpc.StatusCode.INVALID_ARGUMENT}
    else:
        assert codes == ({grpc.StatusCode.OK} if known else {grpc.StatusCode.NOT_FOUND, grpc.StatusCode.OK})


@settings(max_examples=100, derandomize=True)
@given(mangled(REFLECTION))
def test_reflection_takes_any_bytes(channel: grpc.Channel, data: bytes) -> None:
    method = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
    try:
        reflection_pb2.ServerReflectionRequest.FromString(data)
    except DecodeError:
        assert first_status(channel, method, data) is grpc.StatusCode.INVALID_ARGUMENT
    else:
        assert first_status(channel, method, data) is grpc.StatusCode.OK
    assert first_status(channel, method, REFLECTION, data) is grpc.StatusCode.OK  # the first answer comes before


HTTP2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
JUNK = [
    b"\0" * 1000,
    b"\xff" * 100_000,
    b"GET / HTTP/1.1\r\n\r\n",
    b"POST /v1/score HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
    b"POST /v1/score HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    b"POST /v1/score HTTP/1.1\r\nhost: a\r\n" + b"a: b\r\n" * 20_000,
    b"A" * 200_000,
    bytes.fromhex("1603010200010001fc0303"),  # the beginning of TLS
    HTTP2 + b"\xff" * 64,
    HTTP2 + bytes.fromhex("000000040000000000") + bytes.fromhex("ffffff010500000001") + b"x" * 100,
]


@pytest.mark.parametrize("protocol", ["http", "grpc"])
@pytest.mark.parametrize("junk", JUNK, ids=range(len(JUNK)))
def test_junk_on_the_socket(service: ToyProcess, protocol: str, junk: bytes) -> None:
    port = service.http_port if protocol == "http" else service.grpc_port
    with socket.create_connection(("127.0.0.1", port), timeout=240) as connection:
        try:
            connection.sendall(junk)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65536):
                pass
        except OSError:  # the service hangs up before it has read everything
            pass
    still_serves(service)
