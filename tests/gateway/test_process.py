"""The gateway as a process, with a real OCR service behind it."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from clients.varl_client import RewardClient, Score, ScoreError
from tests.support.ocr_builders import ENVIRONMENT, OCRProcess, json_sample, png, render, running
from tests.support.paths import ROOT
from varl.launch.ports import reserve_port

PATIENCE = 240
BREAD = png(render(["BREAD"]))
SLOW = png(render([" ".join(["bread"] * 4)] * 8, (512, 512), 30))  # many lines: a good part of a second


def spawn(*flags: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "varl.services.gateway", "--http-port", "0", *flags]
    return subprocess.Popen(
        command, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@contextmanager
def gateway(*flags: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A gateway that is ready: its URL and process; killed at the end if it still runs."""
    process = spawn(*flags)
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        if not line:
            raise AssertionError(f"the gateway ended with {process.wait()}: {process.communicate()[1]}")
        ready = json.loads(line)
        assert ready.keys() == {"event", "http_port"}
        yield f"http://127.0.0.1:{ready['http_port']}", process
    finally:
        process.kill()
        process.communicate()


def stop(process: subprocess.Popen[str], number: signal.Signals = signal.SIGTERM) -> tuple[int, str, str]:
    process.send_signal(number)
    out, err = process.communicate(timeout=PATIENCE)
    return process.returncode, out, err


def until(condition: Callable[[], bool]) -> None:
    """Poll; the test's own timeout ends a wait that never ends."""
    while not condition():
        time.sleep(0.02)


def state(url: str, reward: str) -> str:
    answer: str = httpx.get(f"{url}/v1/info").json()["rewards"][reward]["state"]
    return answer


def test_the_client_scores_by_the_rewards_that_are_there(ocr_service: OCRProcess) -> None:
    flags = ("--reward", f"ocr=dns:///{ocr_service.grpc}", "--reward", f"absent=127.0.0.1:{reserve_port()}")
    with gateway(*flags) as (url, process):
        with RewardClient(url, attempts=2) as client:
            assert client.info().rewards == ("ocr", "absent")
            scores = client.score([BREAD] * 40, ["a sign that says 'BREAD'"] * 40, formulas={"ocr": "flow_grpo"})
        with RewardClient(ocr_service.http) as client:
            direct = client.score([BREAD], ["a sign that says 'BREAD'"], formulas={"ocr": "flow_grpo"})["ocr"]
        assert scores["ocr"].outcomes == direct.outcomes * 40
        assert scores["ocr"].models == direct.models
        assert isinstance(scores["ocr"].outcomes[0], Score)
        error = scores["absent"].outcomes[0]
        assert isinstance(error, ScoreError)
        assert (error.code, error.retryable) == ("not_ready", True)
        code, out, err = stop(process)
    assert (code, out) == (0, "")
    assert "Traceback" not in err


def test_a_service_that_comes_back_is_asked_again(ocr_model_cache: Path) -> None:
    port = reserve_port()
    with (
        running(ocr_model_cache, "--grpc-port", str(port)),
        gateway("--reward", f"ocr=127.0.0.1:{port}") as (url, process),
    ):
        code, _, err = stop(process, signal.SIGINT)
    assert code == 0, err
    with socket.create_server(("127.0.0.1", 0)) as taken:  # nobody answers gRPC there
        flags = ("--reward", f"ocr=127.0.0.1:{port}", "--reward", f"mute=127.0.0.1:{taken.getsockname()[1]}")
        process = spawn("--http-port", str(http := reserve_port()), *flags)
        url = f"http://127.0.0.1:{http}"
        try:
            until(lambda: listens(http))
            assert httpx.get(f"{url}/readyz").status_code == 503
            with running(ocr_model_cache, "--grpc-port", str(port)):
                until(lambda: state(url, "ocr") == "ready")
                with RewardClient(url) as client:
                    assert client.score([BREAD], ["says 'BREAD'"], rewards=["ocr"])["ocr"].require()[0] > 1.5
            until(lambda: state(url, "ocr") == "unavailable")
            with running(ocr_model_cache, "--grpc-port", str(port)), RewardClient(url) as client:
                assert client.score([BREAD], ["says 'BREAD'"], rewards=["ocr"])["ocr"].require()[0] > 1.5
            assert stop(process)[0] == 0
        finally:
            process.kill()
            process.communicate()


def test_requests_in_flight_are_finished_first(ocr_service: OCRProcess) -> None:
    body = {"samples": [json_sample(str(index), "'bread'", SLOW) for index in range(4)]}
    flags = ("--reward", f"ocr={ocr_service.grpc}", "--grace-seconds", str(PATIENCE))
    with gateway(*flags) as (url, process), ThreadPoolExecutor(1) as pool:
        held = pool.submit(httpx.post, f"{url}/v1/score", json=body, timeout=PATIENCE)
        until(lambda: "varl_gateway_samples_in_flight 4.0" in httpx.get(f"{url}/metrics").text)
        code, _, err = stop(process)
    assert code == 0, err
    assert [result["id"] for result in held.result().json()["rewards"]["ocr"]["results"]] == ["0", "1", "2", "3"]


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_it_can_be_stopped_before_any_reward_is_there() -> None:
    process = spawn("--http-port", str(port := reserve_port()), "--reward", f"absent=127.0.0.1:{reserve_port()}")
    try:
        until(lambda: listens(port))
        code, out, err = stop(process)
    finally:
        process.kill()
        process.communicate()
    assert (code, out) == (0, "")
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("flags", "code", "named"),
    [
        ((), 2, "reward"),
        (("--reward", "a b=x:1"), 2, "reward"),
        (("--reward", "a=x:1", "--max-request-bytes", str(2**30)), 2, "max_request_bytes"),
        (("--reward", "a=x:1", "--backend-token-file", "/nowhere/token"), 1, "/nowhere/token"),
    ],
)
def test_bad_settings_end_it_with_a_reason(flags: tuple[str, ...], code: int, named: str) -> None:
    process = spawn(*flags)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == code
    assert named in err
    assert "Traceback" not in err


def test_a_taken_port_ends_it_with_a_reason() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        process = spawn("--http-port", port, "--reward", "a=x:1")
        _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert port in err


def test_a_refused_token_is_counted_and_has_no_duration(tmp_path: Path, ocr_service: OCRProcess) -> None:
    (tmp_path / "token").write_text("secret\n")
    with gateway("--reward", f"ocr=dns:///{ocr_service.grpc}", "--token-file", str(tmp_path / "token")) as (url, _):
        assert httpx.post(f"{url}/v1/score", json={}).status_code == 401
        assert httpx.post(f"{url}/v1/score", json={}, headers={"authorization": "Bearer secret"}).status_code == 422
        metrics = httpx.get(f"{url}/metrics").text
    assert 'varl_gateway_requests_total{outcome="unauthenticated",protocol="http"} 1.0' in metrics
    assert "varl_gateway_request_seconds_count 1.0" in metrics
