"""Three times as many requests as the service can answer, sent at their times whatever becomes of those before."""

from __future__ import annotations

import asyncio
import time
from typing import NamedTuple

from benchmarks.serving import http_load
from benchmarks.serving.payload import TINY, sample_body
from benchmarks.serving.processes import Server, running
from benchmarks.serving.table import AT_LEAST, AT_MOST, line, percentile
from benchmarks.shared import Row

OVER = 3.0
_IN_FLIGHT = 64
_SERVICE = (
    "--batch",
    "16",
    "--forward-ms",
    "20",
    "--image-ms",
    "4",
    "--max-samples",
    "8",
    "--max-in-flight",
    str(_IN_FLIGHT),
)
_POST = http_load.post("/v1/score", sample_body(TINY))
_SERVER = "varl, HTTP JSON"


class Sent(NamedTuple):
    """What became of one request: seconds from when it was due to its answer, and when that came."""

    status: int
    seconds: float
    at: float


def measure(seconds: float) -> list[Row]:
    """Capacity from a closed loop, then goodput, refusals and memory in an open one."""
    with running("benchmarks.serving.toy_service", *_SERVICE) as server:
        capacity = asyncio.run(_capacity(server, seconds))
        asyncio.run(_open_loop(server, OVER * capacity, seconds / 4))  # memory is compared from here on
        before = server.rss_mib()
        sent = asyncio.run(_open_loop(server, OVER * capacity, seconds))
        grown = server.rss_mib() - before
    taken, refused = ([one for one in sent if one.status == status] for status in (200, 429))
    name = f"{OVER:g}x overload for {seconds:g} s, open loop"
    goodput = sum(one.at <= seconds for one in taken) / seconds
    return [
        line("capacity, closed loop", _SERVER, capacity, "requests/s"),
        line(name, _SERVER, goodput / capacity, "goodput / capacity", (AT_LEAST, 0.9)),
        line(name, _SERVER, len(refused) / len(sent), "refused with 429"),
        line(name, _SERVER, len(sent) - len(taken) - len(refused), "other answers", (AT_MOST, 0)),
        line(
            name,
            _SERVER,
            1000 * percentile([one.seconds for one in refused], 99),
            "ms to a refusal, p99",
            (AT_MOST, 50.0),
        ),
        line(name, _SERVER, 1000 * percentile([one.seconds for one in taken], 99), "ms to an answer, p99"),
        line(name, _SERVER, grown, "MiB of memory gained", (AT_MOST, 8.0)),
    ]


async def _capacity(server: Server, seconds: float) -> float:
    """Requests a second with as many in flight as are taken."""
    await http_load.closed_loop(server.http_port, [_POST], 2 * _IN_FLIGHT, _IN_FLIGHT)
    began = time.perf_counter()
    await http_load.closed_loop(server.http_port, [_POST], count := int(100 * seconds), _IN_FLIGHT)
    return count / (time.perf_counter() - began)


async def _open_loop(server: Server, rate: float, seconds: float) -> list[Sent]:
    idle: list[http_load.Connection] = []
    start = time.perf_counter()

    async def one(due: float) -> Sent:
        connection = idle.pop() if idle else http_load.Connection(server.http_port)
        answer = await connection.send(_POST)
        idle.append(connection)
        now = time.perf_counter()
        return Sent(answer.status, now - due, now - start)

    tasks = list[asyncio.Task[Sent]]()
    for index in range(int(rate * seconds)):
        due = start + index / rate
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        tasks.append(asyncio.create_task(one(due)))
    sent = await asyncio.gather(*tasks)
    for connection in idle:
        connection.close()
    return sent
