"""Start, overload and stop of a real service process."""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import grpc
import httpx
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.support.ocr_builders import OCRProcess, grpc_sample, json_sample, png, render, running, spawn
from varl.launch.ports import reserve_port
from varl.v1 import reward_pb2, reward_pb2_grpc

PATIENCE = 240  # seconds that any one wait may take on a busy machine; no test asserts a duration
WORDS = [" ".join(["bread"] * 4)] * 8
SLOW = png(render(WORDS, (512, 512), 30))  # many lines: a good part of a second


def slow_body(count: int) -> dict[str, list[dict[str, object]]]:
    return {"samples": [json_sample(str(index), "'bread'", SLOW) for index in range(count)]}


def until(condition: Callable[[], bool]) -> None:
    """Poll; the test's own timeout ends a wait that never ends."""
    while not condition():
        time.sleep(0.01)


def in_flight(service: OCRProcess) -> float:
    line = next(
        line
        for line in httpx.get(f"{service.http}/metrics").text.splitlines()
        if line.startswith("varl_samples_in_flight{")
    )
    return float(line.rsplit(" ", 1)[1])


def stop(process: subprocess.Popen[str], number: signal.Signals = signal.SIGTERM) -> tuple[int, str, str]:
    process.send_signal(number)
    out, err = process.communicate(timeout=PATIENCE)
    return process.returncode, out, err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_service_with_code_0(ocr_model_cache: Path, number: signal.Signals) -> None:
    with running(ocr_model_cache) as service:
        code, out, err = stop(service.process, number)
    assert code == 0
    assert out == ""  # the ready line was all
    assert "Traceback" not in err


def test_requests_in_flight_are_finished_first(ocr_model_cache: Path) -> None:
    with (
        running(ocr_model_cache, "--grace-seconds", str(PATIENCE)) as service,
        ThreadPoolExecutor(2) as pool,
        grpc.insecure_channel(service.grpc) as channel,
    ):
        request = reward_pb2.ScoreRequest(samples=[grpc_sample("0", "'bread'", SLOW)])
        http = pool.submit(httpx.post, f"{service.http}/v1/score", json=slow_body(4), timeout=PATIENCE)
        rpc = pool.submit(reward_pb2_grpc.RewardServiceStub(channel).Score, request, timeout=PATIENCE)
        until(lambda: in_flight(service) == 5)
        code, _, err = stop(service.process)
        assert code == 0, err
        results = http.result().json()["results"]
        assert [result["id"] for result in results] == ["0", "1", "2", "3"]
        assert all(len(result["words"]) > 10 for result in results)
        assert len(rpc.result().results[0].score.words) == len(results[0]["words"])


def test_over_the_limit_requests_are_turned_away_and_told_when_to_come_back(ocr_model_cache: Path) -> None:
    with (
        running(ocr_model_cache, "--max-samples", "4", "--max-in-flight", "4") as service,
        ThreadPoolExecutor(1) as pool,
    ):
        held = pool.submit(httpx.post, f"{service.http}/v1/score", json=slow_body(4), timeout=PATIENCE)
        until(lambda: in_flight(service) == 4)
        turned_away = httpx.post(f"{service.http}/v1/score", json=slow_body(1), timeout=PATIENCE)
        with (
            grpc.insecure_channel(service.grpc, options=[("grpc.enable_retries", 0)]) as channel,
            pytest.raises(grpc.RpcError) as failure,
        ):
            reward_pb2_grpc.RewardServiceStub(channel).Score(
                reward_pb2.ScoreRequest(samples=[grpc_sample("0", "'bread'", SLOW)])
            )
        assert turned_away.status_code == 429
        assert turned_away.json()["code"] == "overloaded"
        assert turned_away.json()["retryable"] is True
        assert int(turned_away.headers["retry-after"]) >= 1
        assert failure.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert int(dict(cast(Any, failure.value.trailing_metadata()))["grpc-retry-pushback-ms"]) > 0
        assert held.result().status_code == 200
        assert httpx.post(f"{service.http}/v1/score", json=slow_body(1), timeout=PATIENCE).status_code == 200


def test_a_client_that_hangs_up_gives_its_room_back(ocr_model_cache: Path) -> None:
    with running(ocr_model_cache, "--max-samples", "64", "--max-in-flight", "64") as service:
        with grpc.insecure_channel(service.grpc) as channel:
            request = reward_pb2.ScoreRequest(samples=[grpc_sample(str(index), "'bread'", SLOW) for index in range(64)])
            call = reward_pb2_grpc.RewardServiceStub(channel).Score.future(request)
            until(lambda: in_flight(service) == 64)
            call.cancel()
            until(lambda: in_flight(service) == 0)
        assert httpx.post(f"{service.http}/v1/score", json=slow_body(1), timeout=PATIENCE).status_code == 200


def test_a_client_that_hangs_up_over_http_gives_its_room_back(ocr_model_cache: Path) -> None:
    with running(ocr_model_cache, "--max-samples", "64", "--max-in-flight", "64") as service:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{service.http}/v1/score", json=slow_body(64), timeout=httpx.Timeout(PATIENCE, read=1.0))
        until(lambda: in_flight(service) == 0)
        metrics = httpx.get(f"{service.http}/metrics").text
        assert 'varl_requests_total{outcome="client_gone",protocol="http",reward="ocr"} 1.0' in metrics
        assert (
            float(next(line for line in metrics.splitlines() if line.startswith("varl_inferences_total{")).split()[-1])
            < 60
        )
        assert httpx.post(f"{service.http}/v1/score", json=slow_body(1), timeout=PATIENCE).status_code == 200


def test_workers_give_the_same_scores_as_one(ocr_model_cache: Path, ocr_service: OCRProcess) -> None:
    rng = np.random.default_rng(0)
    noisy = [
        np.clip(render(["BREAD"]).astype(int) + rng.normal(0, 60, (64, 64, 3)), 0, 255).astype(np.uint8)
        for _ in range(12)
    ]
    body = {"samples": [json_sample(str(index), "'bread'", png(image)) for index, image in enumerate(noisy)]}
    with running(ocr_model_cache, "--workers", "2") as service:
        assert (
            httpx.post(f"{service.http}/v1/score", json=body, timeout=PATIENCE).json()
            == httpx.post(f"{ocr_service.http}/v1/score", json=body, timeout=PATIENCE).json()
        )


def test_until_the_model_is_loaded_nothing_is_taken(ocr_model_cache: Path) -> None:
    http_port, grpc_port = reserve_port(), reserve_port()
    process = spawn(ocr_model_cache, "--http-port", str(http_port), "--grpc-port", str(grpc_port))
    url = f"http://127.0.0.1:{http_port}"
    try:
        until(lambda: listens(http_port))
        ready = httpx.get(f"{url}/readyz")
        score = httpx.post(f"{url}/v1/score", json={"samples": [json_sample("a", "'x'", SLOW)]})
        alive = httpx.get(f"{url}/livez")
        with grpc.insecure_channel(f"127.0.0.1:{grpc_port}") as channel:
            health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        assert alive.status_code == 200
        for answer in (ready, score):
            assert answer.status_code == 503
            assert answer.json()["code"] == "not_ready"
            assert answer.headers["retry-after"] == "1"
        assert health.status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert stop(process)[0] == 0  # also while loading
    finally:
        process.kill()
        process.communicate()


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_an_engine_that_cannot_start_ends_the_service_with_a_reason(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    process = spawn(tmp_path / "file" / "cache")
    out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out) == (1, "")
    assert "VARL_OCR_MODEL_CACHE" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("flag", ["--http-port", "--grpc-port"])
def test_a_taken_port_ends_the_service_with_a_reason(ocr_model_cache: Path, flag: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        process = spawn(ocr_model_cache, flag, port)
        out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out) == (1, "")
    assert port in err


def test_reflection_is_offered_only_on_request(ocr_service: OCRProcess, ocr_model_cache: Path) -> None:
    from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

    def services(target: str) -> list[str]:
        with grpc.insecure_channel(target) as channel:
            stub = reflection_pb2_grpc.ServerReflectionStub(channel)
            (answer,) = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
            return [service.name for service in answer.list_services_response.service]

    with pytest.raises(grpc.RpcError) as failure:
        services(ocr_service.grpc)
    assert failure.value.code() is grpc.StatusCode.UNIMPLEMENTED
    with running(ocr_model_cache, "--reflection") as service:
        assert {"varl.v1.RewardService", "grpc.health.v1.Health"} <= set(services(service.grpc))
