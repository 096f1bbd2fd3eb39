"""Processor time that a server spends on a request whose model does nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from statistics import median
from tempfile import NamedTemporaryFile
from typing import IO, NamedTuple

from benchmarks.serving import grpc_load, http_load
from benchmarks.serving.payload import TINY, peer_body, sample_body
from benchmarks.serving.processes import Server, running
from benchmarks.serving.table import AT_LEAST, AT_MOST, line
from benchmarks.shared import Row

CLIENTS = 32
_TOKEN = "benchmark"
PICTURE, PROMPT = "no-op, prompt and 8x8 PNG", "no-op, prompt alone"
Load = Callable[[Server, int], Awaitable[None]]


class Base(NamedTuple):
    """A server and what it is sent, by name of the measurement."""

    server: str
    module: str
    flags: tuple[str, ...]
    loads: Mapping[str, Load]


class Cost(NamedTuple):
    """Microseconds of processor time a request, in each repetition; requests answered a second."""

    cpu: list[float]
    rate: list[float]


def _http(path: str, body: bytes, token: str = "") -> Load:
    request = http_load.post(path, body, token=token)
    return lambda server, count: http_load.closed_loop(server.http_port, [request], count, CLIENTS)


def _grpc(server: Server, count: int) -> Awaitable[None]:
    return grpc_load.closed_loop(server.grpc_port, [grpc_load.request(TINY)], count, CLIENTS, _TOKEN)


GRPC, HTTP = "varl, gRPC", "varl, HTTP JSON"
_TOY, _LITSERVE, _FASTAPI = (
    f"benchmarks.serving.{name}" for name in ("toy_service", "peers.litserve_noop", "peers.fastapi_plain")
)
_PEER_LOADS = {PICTURE: _http("/predict", peer_body(TINY)), PROMPT: _http("/predict", peer_body(b""))}
BASES = (
    Base(GRPC, _TOY, (), {PICTURE: _grpc}),
    Base(HTTP, _TOY, (), {PICTURE: _http("/v1/score", sample_body(TINY), _TOKEN)}),
    Base("FastAPI handler alone", _FASTAPI, (), _PEER_LOADS),
    Base("LitServe, batch 1", _LITSERVE, ("--batch", "1"), _PEER_LOADS),
    Base("LitServe, batch 16", _LITSERVE, ("--batch", "16"), _PEER_LOADS),
)
_BARS = {GRPC: (AT_MOST, 350.0), HTTP: (AT_MOST, 250.0)}


def measure(requests: int, repetitions: int) -> list[Row]:
    """A row for each server and load, then how much more LitServe needs than ours."""
    costs = {(base.server, name): cost for base in BASES for name, cost in _costs(base, requests, repetitions).items()}
    rows = [row for (server, name), cost in costs.items() for row in _rows(server, name, cost)]
    ours = median(costs[HTTP, PICTURE].cpu)
    for (server, name), cost in costs.items():
        if server.startswith("LitServe"):
            bar = (AT_LEAST, 3.0) if name == PICTURE else None  # the prompt alone is less than what ours was sent
            rows.append(
                line(f"{name}: CPU, times that of {HTTP} with the PNG", server, median(cost.cpu) / ours, "x", bar)
            )
    return rows


def _rows(server: str, name: str, cost: Cost) -> list[Row]:
    return [
        line(name, server, median(cost.cpu), "CPU us a request, median", _BARS.get(server)),
        line(name, server, min(cost.cpu), "CPU us a request, least"),
        line(name, server, median(cost.rate), "requests/s, median"),
    ]


def _costs(base: Base, requests: int, repetitions: int) -> dict[str, Cost]:
    """Start the server, warm it up, and count."""
    costs = {name: Cost([], []) for name in base.loads}
    with NamedTemporaryFile("w") as file, running(base.module, *base.flags, *_token_flags(base, file)) as server:
        for load in base.loads.values():
            _run(load, server, requests // 2)
        for _ in range(repetitions):
            for name, load in base.loads.items():
                cpu, began = server.cpu_seconds(), time.perf_counter()
                _run(load, server, requests)
                costs[name].rate.append(requests / (time.perf_counter() - began))
                costs[name].cpu.append(1e6 * (server.cpu_seconds() - cpu) / requests)
    return costs


def _token_flags(base: Base, file: IO[str]) -> tuple[str, ...]:
    """Ours ask for a bearer token; the others are spared."""
    if base.module != _TOY:
        return ()
    file.write(_TOKEN)
    file.flush()
    return "--token-file", file.name


def _run(load: Load, server: Server, count: int) -> None:
    async def main() -> None:
        await load(server, count)

    asyncio.run(main())
