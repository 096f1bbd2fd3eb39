"""Clients that go away, dawdle or send poison: the next request is served, and the others are right."""

from __future__ import annotations

import re
import socket
import struct
from collections.abc import Iterator

import grpc
import httpx
import numpy as np
import pytest
from PIL import Image

from benchmarks.serving.payload import TINY, encode, sample_body
from benchmarks.serving.toy_service import POISON
from tests.support.toy_process import ToyProcess, toy_service
from varl.v1 import reward_pb2, reward_pb2_grpc

BODY = sample_body(TINY)
HEAD = b"POST /v1/score HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(BODY)


@pytest.fixture(scope="module")
def service() -> Iterator[ToyProcess]:
    """One batch holds 32 items, and waits until it does."""
    with toy_service("--batch", "32", "--wait-ms", "500") as running:
        yield running


def connect(service: ToyProcess) -> socket.socket:
    return socket.create_connection(("127.0.0.1", service.http_port), timeout=240)


def reset(connection: socket.socket) -> None:
    """Close with RST in place of FIN."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def still_serves(service: ToyProcess) -> None:
    answer = httpx.post(
        f"{service.http}/v1/score", content=BODY, headers={"content-type": "application/json"}, timeout=240
    )
    assert answer.json()["results"][0]["value"] == 0.0


def metric(service: ToyProcess, pattern: str) -> float:
    text = httpx.get(f"{service.http}/metrics", timeout=240).text
    return sum(float(value) for value in re.findall(rf"^{pattern} (.*)$", text, re.MULTILINE))


@pytest.mark.parametrize("sent", [0, 1, len(HEAD) - 2, len(HEAD), len(HEAD) + len(BODY) // 2])
@pytest.mark.parametrize("ending", ["shut", "reset"])
def test_a_client_that_goes_away_while_sending(service: ToyProcess, sent: int, ending: str) -> None:
    connection = connect(service)
    connection.sendall((HEAD + BODY)[:sent])
    reset(connection) if ending == "reset" else connection.close()
    still_serves(service)


def test_a_client_that_goes_away_before_its_answer(service: ToyProcess) -> None:
    connection = connect(service)
    connection.sendall(HEAD + BODY)
    reset(connection)
    still_serves(service)
    assert metric(service, r"varl_samples_in_flight\{.*\}") == 0


def test_clients_that_dawdle_hold_up_nobody(service: ToyProcess) -> None:
    slow = [connect(service) for _ in range(50)]
    for place in range(len(HEAD) + 10):
        for connection in slow[: 50 if place < 40 else 2]:
            connection.sendall((HEAD + BODY)[place : place + 1])
        if place % 40 == 0:
            still_serves(service)
    for connection in slow[:2]:
        connection.sendall((HEAD + BODY)[len(HEAD) + 10 :])
        assert connection.recv(12) == b"HTTP/1.1 200"
    for connection in slow:
        connection.close()


def test_a_grpc_client_that_cancels(service: ToyProcess) -> None:
    request = reward_pb2.ScoreRequest(samples=[reward_pb2.Sample(id="a", image=TINY)])
    with grpc.insecure_channel(service.grpc) as channel:
        stub = reward_pb2_grpc.RewardServiceStub(channel)
        calls = [stub.Score.future(request) for _ in range(20)]
        for call in calls:
            call.cancel()
        assert stub.Score(request, timeout=240).results[0].score.value == 0.0


@pytest.mark.parametrize("poisoned", [0, 13, 31])
def test_one_poison_among_32_costs_11_forwards_and_nobody_else_a_score(service: ToyProcess, poisoned: int) -> None:
    pictures = [encode(Image.fromarray(np.full((8, 8, 3), 8 * index, np.uint8))) for index in range(32)]
    samples = [
        reward_pb2.Sample(id=str(index), prompt=POISON if index == poisoned else "", image=image)
        for index, image in enumerate(pictures)
    ]
    before = metric(service, r"varl_executions_total\{.*\}")
    with grpc.insecure_channel(service.grpc) as channel:
        results = (
            reward_pb2_grpc.RewardServiceStub(channel)
            .Score(reward_pb2.ScoreRequest(samples=samples), timeout=240)
            .results
        )
    assert [index for index, result in enumerate(results) if result.HasField("error")] == [poisoned]
    assert all(result.score.value == 8 * index / 255 for index, result in enumerate(results) if index != poisoned)
    assert results[poisoned].error.code == reward_pb2.ERROR_CODE_ENGINE_FAILED
    assert metric(service, r"varl_executions_total\{.*\}") - before <= 11
