"""The probe of containers, against real servers."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from varl.services.serving.probe import main


class Answers(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(int(self.path[1:]))
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing."""


@pytest.fixture
def http_port() -> Iterator[int]:
    with HTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


@pytest.mark.parametrize(("status", "expected"), [(200, 0), (204, 0), (503, 1), (301, 1)])
def test_a_status_of_2xx_is_healthy(
    http_port: int, status: int, expected: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([f"http://127.0.0.1:{http_port}/{status}"]) == expected
    assert (f"status {status}" in capsys.readouterr().err) == bool(expected)


@pytest.mark.parametrize(("serving", "expected"), [(True, 0), (False, 1)])
def test_grpc_health_is_asked_for(serving: bool, expected: int) -> None:
    servicer, server = health.HealthServicer(), grpc.server(ThreadPoolExecutor(1))
    states = health_pb2.HealthCheckResponse
    servicer.set("", states.SERVING if serving else states.NOT_SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        assert main([f"grpc://127.0.0.1:{port}"]) == expected
    finally:
        server.stop(None).wait()


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_nobody_there_is_unhealthy(scheme: str, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening: connections are refused
        assert main([f"{scheme}://127.0.0.1:{taken.getsockname()[1]}"]) == 1
    assert f"{scheme}://127.0.0.1" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["ftp://x"], ["http://"], ["http://a", "http://b"]])
def test_other_arguments_are_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert "usage" in capsys.readouterr().err
