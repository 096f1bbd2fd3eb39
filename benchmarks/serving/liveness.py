"""How long the probes take while eight 2048x2048 PNG files at a time are decoded on the same core."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context

import grpc
import numpy as np
from grpc_health.v1 import health_pb2, health_pb2_grpc
from PIL import Image

from benchmarks.serving import grpc_load, http_load
from benchmarks.serving.payload import FORM_TYPE, encode, form_body, sample_body
from benchmarks.serving.processes import Server, running
from benchmarks.serving.table import AT_MOST, line, percentile
from benchmarks.shared import Row

_IN_FLIGHT = 8
_INTERVAL = 0.02
_GET = http_load.get("/livez")
Probe = Callable[[], Awaitable[object]]


def measure(seconds: float) -> list[Row]:
    """The 99th percentile of both probes under either kind of load, and the middle."""
    rows = []
    for name, load in (("gRPC", _send_grpc), ("HTTP multipart", _send_form), ("HTTP JSON", _send_json)):
        with running("benchmarks.serving.toy_service") as server, _sending(load, server):
            for probe, found in asyncio.run(_probe(server, seconds)).items():
                what = f"{probe} while eight 2048x2048 PNGs decode, sent by {name}"
                rows.append(line(what, "varl", 1000 * percentile(found, 99), "ms, p99", (AT_MOST, 50.0)))
                rows.append(line(what, "varl", 1000 * percentile(found, 50), "ms, p50"))
    return rows


def large_picture() -> bytes:
    """A PNG file of 2048x2048 pixels that compresses as a photograph might, to about 5 MiB."""
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 240, 2048)
    pixels = (ramp[:, None, None] + ramp[None, :, None])[:, :, [0, 0, 0]] / 2 + rng.integers(0, 6, (2048, 2048, 3))
    return encode(Image.fromarray(pixels.astype(np.uint8)))


@contextmanager
def _sending(load: Callable[[Server], None], server: Server) -> Iterator[None]:
    """Load from a process of its own, so that the probes wait for the server alone."""
    process = get_context("spawn").Process(target=load, args=(server,), daemon=True)
    process.start()
    time.sleep(5)  # until it has made its picture and the server is busy
    try:
        yield
    finally:
        process.kill()
        process.join()


def _send_grpc(server: Server) -> None:
    asyncio.run(grpc_load.closed_loop(server.grpc_port, [grpc_load.request(large_picture())], 10**6, _IN_FLIGHT))


def _send_form(server: Server) -> None:
    request = http_load.post("/v1/score", form_body(large_picture()), FORM_TYPE)
    asyncio.run(http_load.closed_loop(server.http_port, [request], 10**6, _IN_FLIGHT))


def _send_json(server: Server) -> None:
    request = http_load.post("/v1/score", sample_body(large_picture()))
    asyncio.run(http_load.closed_loop(server.http_port, [request], 10**6, _IN_FLIGHT))


async def _probe(server: Server, seconds: float) -> dict[str, list[float]]:
    connection = http_load.Connection(server.http_port)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        probes: dict[str, Probe] = {
            "GET /livez": lambda: connection.send(_GET),
            "health.v1 Check": lambda: stub.Check(health_pb2.HealthCheckRequest()),
        }
        return {name: await _times(probe, seconds) for name, probe in probes.items()}


async def _times(probe: Probe, seconds: float) -> list[float]:
    """Seconds from when each probe was due to its answer.

    A probe that takes long delays those after it, and they say so.
    """
    start, found = time.perf_counter(), list[float]()
    for index in range(int(seconds / _INTERVAL)):
        due = start + index * _INTERVAL
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        await probe()
        found.append(time.perf_counter() - due)
    return found
