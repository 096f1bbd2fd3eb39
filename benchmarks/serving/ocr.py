"""Images per second through the OCR service, the engine alone and other servers of the same engine.

All of them run on one core.
"""

from __future__ import annotations

import asyncio
import json
import pickle
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from statistics import median

from benchmarks.serving import grpc_load, http_load
from benchmarks.serving.payload import SIDES, peer_body, pictures, sample_body, samples_body
from benchmarks.serving.processes import Server, kill, running, start
from benchmarks.serving.table import AT_LEAST, AT_MOST, line
from benchmarks.shared import Row

CLIENTS = 32
OFFLINE, FILES = "engine alone", "engine alone, and decoding"
GRPC, HTTP, LITSERVE, FLASK = "varl, gRPC", "varl, HTTP JSON", "LitServe, batch 1", "Flask, gunicorn, pickle"
_OURS, _LITSERVE, _FLASK = (
    "varl.services.ocr",
    "benchmarks.serving.peers.litserve_ocr",
    "benchmarks.serving.peers.flask_pickle",
)
Round = Callable[[int], float]  # so many images: seconds


def measure(images: int, rounds: int) -> list[Row]:
    """All servers run, and take turns.

    A row of the middle rate for each, then what ours reach of the engine and of the others.
    """
    with ExitStack() as stack:
        servers = [stack.enter_context(running(module)) for module in (_OURS, _LITSERVE, _FLASK)]
        offline = stack.enter_context(_offline())
        rows = [
            row
            for side in SIDES
            for row in _measure_side(_takers(side, offline, *servers), side, images * 64 // side, rounds)
        ]
        difference = asyncio.run(_difference(servers[0]))
    return [*rows, line("OCR, score alone and among 31 others", HTTP, difference, "largest difference", (AT_MOST, 0.0))]


def _measure_side(takers: Mapping[str, Round], side: int, images: int, rounds: int) -> list[Row]:
    rates: dict[str, list[float]] = {name: [] for name in takers}
    for take in takers.values():
        take(CLIENTS)
    for _ in range(rounds):
        for name, take in takers.items():
            rates[name].append(images / take(images))
    title = f"OCR, {CLIENTS} clients of one {side}x{side} image"
    return [*(line(title, name, median(found), "images/s") for name, found in rates.items()), *_ratios(title, rates)]


def _takers(
    side: int, offline: Callable[[int, int, str], float], ours: Server, litserve: Server, flask: Server
) -> Mapping[str, Round]:
    sent = pictures(side)
    calls = [grpc_load.request(image, prompt) for prompt, image in sent]
    pickles = [pickle.dumps({"images": [image], "prompts": [prompt]}) for prompt, image in sent]
    return {
        OFFLINE: lambda count: offline(count, side, "pixels"),
        FILES: lambda count: offline(count, side, "files"),
        GRPC: lambda count: _timed(grpc_load.closed_loop(ours.grpc_port, calls, count, CLIENTS)),
        HTTP: _http(ours, [http_load.post("/v1/score", sample_body(image, prompt)) for prompt, image in sent]),
        LITSERVE: _http(litserve, [http_load.post("/predict", peer_body(image, prompt)) for prompt, image in sent]),
        FLASK: _http(flask, [http_load.post("/", body, "application/octet-stream") for body in pickles]),
    }


def _http(server: Server, requests: list[bytes]) -> Round:
    return lambda count: _timed(http_load.closed_loop(server.http_port, requests, count, CLIENTS))


def _timed(load: Coroutine[None, None, None]) -> float:
    began = time.perf_counter()
    asyncio.run(load)
    return time.perf_counter() - began


@contextmanager
def _offline() -> Iterator[Callable[[int, int, str], float]]:
    process = start([sys.executable, "-m", "benchmarks.serving.offline_ocr"], subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    stdin, stdout = process.stdin, process.stdout

    def take(count: int, side: int, kind: str) -> float:
        stdin.write(f"{count} {side} {kind}\n".encode())
        stdin.flush()
        return float(stdout.readline())

    try:
        if stdout.readline() != b"ready\n":
            raise SystemExit("the engine did not come up")
        yield take
    finally:
        kill(process)


def _ratios(title: str, rates: Mapping[str, list[float]]) -> Iterator[Row]:
    """Of the middle rates."""
    for name in (GRPC, HTTP):
        ours = median(rates[name])
        yield line(
            f"{title}: rate over that of the {OFFLINE}", name, ours / median(rates[OFFLINE]), "x", (AT_LEAST, 0.95)
        )
        yield line(f"{title}: rate over that of the {FILES}", name, ours / median(rates[FILES]), "x")
        for peer in (LITSERVE, FLASK):
            yield line(f"{title}: rate over that of {peer}", name, ours / median(rates[peer]), "x", (AT_LEAST, 1.0))


async def _difference(server: Server) -> float:
    """The largest difference between the scores of 32 images sent one by one and in one request."""
    sent = pictures(count=CLIENTS)
    alone = [await _values(server, sample_body(image, prompt)) for prompt, image in sent]
    together = await _values(server, samples_body(sent))
    return max(abs(one - other) for (one,), other in zip(alone, together, strict=True))


async def _values(server: Server, body: bytes) -> list[float]:
    answer = await http_load.once(server.http_port, http_load.post("/v1/score", body))
    return [result["value"] for result in json.loads(answer.body)["results"]]
