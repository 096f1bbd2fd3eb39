"""What a service process tells the outside: its logs, its traces, and that its model is lost."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from benchmarks.serving.toy_service import FATAL, POISON
from tests.support.compat_rig import PATIENCE, grey
from tests.support.ocr_builders import grpc_sample, json_sample
from tests.support.toy_process import start_toy, toy_service
from varl.v1 import reward_pb2, reward_pb2_grpc

SECRET = "a-prompt-that-nobody-may-read"


def body(prompt: str) -> dict[str, Any]:
    return {"samples": [json_sample("a", prompt, grey(51))]}


def test_a_lost_model_fails_what_waits_as_unavailable_and_ends_the_process() -> None:
    process = start_toy("--http-port", "0", "--grpc-port", "0")
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        port = json.loads(process.stdout.readline())["http_port"]
        answer = httpx.post(f"http://127.0.0.1:{port}/v1/score", json=body(FATAL), timeout=PATIENCE)
        assert (answer.status_code, answer.json()["code"]) == (503, "not_ready")
        assert process.wait(PATIENCE) == 1
        assert "the model is lost" in process.stderr.read()
    finally:
        process.kill()
        process.communicate()


def test_logs_are_json_lines_without_what_callers_sent() -> None:
    process = start_toy("--http-port", "0", "--grpc-port", "0", "--log-level", "debug")
    assert process.stdout is not None
    try:
        url = f"http://127.0.0.1:{json.loads(process.stdout.readline())['http_port']}"
        for prompt in (SECRET, POISON):
            assert httpx.post(f"{url}/v1/score", json=body(prompt), timeout=PATIENCE).status_code == 200
        httpx.post(
            f"{url}/v1/score", content=f'{{"samples": "{SECRET}"}}', headers={"content-type": "application/json"}
        )
        process.terminate()
        _, err = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
        process.communicate()
    lines = [json.loads(line) for line in err.splitlines()]
    assert any(line["level"] == "error" and "the model failed on an item" in line["message"] for line in lines)
    assert all({"time", "level", "logger", "message"} <= line.keys() for line in lines)
    assert SECRET not in err


@contextmanager
def collector() -> Iterator[tuple[str, list[ExportTraceServiceRequest]]]:
    """An OTLP collector: its URL and what it was sent."""
    received: list[ExportTraceServiceRequest] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append(ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1/traces", received
    finally:
        server.shutdown()
        server.server_close()


def test_requests_are_spans_in_the_callers_trace() -> None:
    trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    with collector() as (url, received):
        with toy_service("--otlp-endpoint", url) as service:
            headers = {"traceparent": f"00-{trace}-{parent}-01"}
            assert httpx.post(f"{service.http}/v1/score", json=body("x"), headers=headers).status_code == 200
            assert httpx.get(f"{service.http}/readyz", headers=headers).status_code == 200  # no span
            with grpc.insecure_channel(service.grpc) as channel:
                stub = reward_pb2_grpc.RewardServiceStub(channel)
                stub.Score(
                    reward_pb2.ScoreRequest(samples=[grpc_sample("a", "x", grey(51))]), metadata=tuple(headers.items())
                )
                with pytest.raises(grpc.RpcError):
                    stub.Score(reward_pb2.ScoreRequest(), metadata=tuple(headers.items()))
            service.process.terminate()
            service.process.wait(PATIENCE)
            service.ended = True
        scopes = [scope for request in received for part in request.resource_spans for scope in part.scope_spans]
        found = sorted((span for scope in scopes for span in scope.spans), key=lambda span: span.start_time_unix_nano)
        names = {
            each.key: each.value.string_value
            for request in received
            for each in request.resource_spans[0].resource.attributes
        }
    assert names["service.name"] == "varl-toy"
    called = [span for span in found if span.parent_span_id.hex() == parent]
    assert {span.trace_id.hex() for span in found if span.name != "batch"} == {trace}
    assert [span.name for span in called] == ["POST /v1/score", "RewardService/Score", "RewardService/Score"]
    codes = [{each.key: each.value.string_value for each in span.attributes}.get("varl.rejection") for span in called]
    assert codes == [None, None, "invalid_request"]
    batches = [span for span in found if span.name == "batch"]
    assert [[(link.trace_id.hex(), link.span_id) for link in span.links] for span in batches] == [
        [(trace, span.span_id)] for span in called[:2]
    ]


@pytest.mark.parametrize("endpoint", ["", "http://127.0.0.1:9/v1/traces"])
def test_a_collector_that_is_away_disturbs_nobody(endpoint: str) -> None:
    with toy_service("--otlp-endpoint", endpoint) as service:
        assert httpx.post(f"{service.http}/v1/score", json=body("x"), timeout=PATIENCE).status_code == 200
