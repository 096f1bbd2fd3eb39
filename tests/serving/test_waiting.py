"""Waits say what they wait for, and what stays on this machine goes through no proxy."""

from __future__ import annotations

import logging
import re

import grpc
import pytest

from clients import varl_client
from tests.support.compat_rig import ToyScorer
from varl.launch import waits
from varl.launch.ports import reserve_port
from varl.services.serving.credentials import channel_options, is_loopback
from varl.services.serving.grpc.client import RewardClient, RewardRejected, RewardUnavailable
from varl.services.serving.grpc.intake import Intake
from varl.services.serving.grpc.server import RewardServicer, server_options
from varl.services.serving.service import ScoringService
from varl.services.serving.settings import ServingSettings
from varl.v1 import reward_pb2

PROXIES = ("http_proxy", "HTTP_PROXY", "grpc_proxy", "https_proxy", "all_proxy")


@pytest.fixture
def dead_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy for everything, at a port where nobody is."""
    for name in PROXIES:
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("target", "here"),
    [
        ("127.0.0.1:50051", True),
        ("localhost:50051", True),
        ("dns:///localhost:1", True),
        ("[::1]:50051", True),
        ("http://127.0.0.1:8080/path", True),
        ("unix:/tmp/socket", True),
        ("dns:///ocr:50051", False),
        ("10.0.0.1:50051", False),
        ("localhost.example.org:1", False),
        ("http://ocr:8080/127.0.0.1:1", False),
    ],
)
def test_what_is_on_this_machine(target: str, here: bool) -> None:
    assert is_loopback(target) is here
    assert bool(channel_options(target)) is here


@pytest.mark.usefixtures("dead_proxy")
async def test_a_grpc_client_asks_no_proxy_for_this_machine() -> None:
    service = ScoringService(ServingSettings.model_validate({}), ToyScorer("toy"))
    server = grpc.aio.server(options=server_options(2**25, 64))
    server.add_generic_rpc_handlers((RewardServicer(service, Intake(4)).handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with RewardClient(f"127.0.0.1:{port}", 60, patient=False) as client:
        assert (await client.info()).reward == "toy"
        with pytest.raises(RewardRejected, match="larger than max"):  # never taken, so no reason to come again
            await client.score([reward_pb2.Sample(id="a", image=bytes(33 * 2**20))])
    await server.stop(None)


@pytest.mark.usefixtures("dead_proxy")
@pytest.mark.parametrize(
    ("url", "here"), [("http://127.0.0.1:1", True), ("http://localhost:1", True), ("http://ocr", False)]
)
def test_the_http_client_asks_no_proxy_for_this_machine(url: str, here: bool) -> None:
    with varl_client.RewardClient(url) as client:
        assert client._http.trust_env is not here


async def test_a_wait_for_a_reward_says_which_and_until_when(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(waits, "FIRST_S", 0.05)
    monkeypatch.setattr(waits, "TICK_S", 0.05)
    target = f"127.0.0.1:{reserve_port()}"
    async with RewardClient(target, 60) as client:
        with pytest.raises(RewardUnavailable):
            await client.wait_ready(1.0)
    assert re.search(rf"waiting for the reward service at {target} for 0 s, until 20\d\d-", caplog.text)


def test_the_http_client_says_what_it_waits_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(varl_client, "_QUIET_SECONDS", 0.2)
    with (
        caplog.at_level(logging.WARNING),
        varl_client.RewardClient("http://127.0.0.1:9", attempts=3) as client,
        pytest.raises(varl_client.UnavailableError),
    ):
        client.info()
    assert "waiting for http://127.0.0.1:9: no answer" in caplog.text
