"""Run each attack against a real reward service, and print how /livez, its memory and an honest caller fare."""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

from benchmarks.attacks import http_attacks, other_attacks
from benchmarks.attacks.http_attacks import Attack, again, picture
from benchmarks.serving import http_load
from benchmarks.serving.payload import pictures
from benchmarks.serving.processes import CLIENT_CORE, SERVER_CORE, Server, on_core, running
from benchmarks.serving.table import AT_LEAST, AT_MOST, line, percentile
from benchmarks.shared import Row, report

_PROBE_EVERY, _ASK_EVERY = 0.05, 0.5
_PATIENCE = 30.0  # seconds within which an honest request must be answered
_REST = 15.0  # seconds until the memory is looked at again
_OCR, _TOY = "varl.services.ocr", "benchmarks.serving.toy_service"  # a model that does nothing, but for A5
_LIVEZ = http_load.get("/livez")


def attacks() -> Mapping[str, Attack]:
    """By the points of the issue that they were found under."""
    words = other_attacks.many_words()
    return {
        "none": again(tuple, 0),
        "A1 header lines of 40 MB": http_attacks.HEADS,
        "A1 a header value of 40 MB": http_attacks.VALUE,
        "A2 400 silent connections": http_attacks.SILENT,
        "A2 40 bodies of 30 MB without an end": http_attacks.UPLOADS,
        "A3 100,000 empty samples": http_attacks.FAULTS,
        "A3 100,000 unknown keys": http_attacks.KEYS,
        "A3 1,000,000 empty samples over gRPC": other_attacks.empty_samples,
        "A4 scans, segments, chunks, fill": other_attacks.pictures(
            other_attacks.many_scans(),
            other_attacks.many_segments(),
            other_attacks.many_chunks(),
            other_attacks.fill(),
        ),
        "A5 1,360 targets against a page of words": again(lambda: (other_attacks.targets(words, 1360),), 2),
        "A5 a picture full of letters": other_attacks.pictures(other_attacks.letters()),
    }


def main() -> None:
    """Keep to the clients' core; the server has the other one."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.attacks", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="of each attack (default: %(default)s)")
    parser.add_argument("--only", default="", help="attacks whose names hold this (default: all)")
    arguments = parser.parse_args()
    load = " ".join(f"{value:.2f}" for value in os.getloadavg())
    rows: list[Row] = []
    with on_core(CLIENT_CORE):
        for name, attack in attacks().items():
            if arguments.only in name:
                with running(_OCR if name.startswith("A5") else _TOY) as server:
                    rows += _measure(name, attack, server, arguments.seconds)
    cores = f"{SERVER_CORE} server, {CLIENT_CORE} clients"
    report("attacks", {"cores": cores, "seconds": arguments.seconds, "load average before": load}, rows)


def _measure(name: str, attack: Attack, server: Server, seconds: float) -> list[Row]:
    honest = picture(pictures(64, 1)[0][1])
    asyncio.run(_warmed(server, honest))
    before = server.rss_mib()
    with _attacking(attack, server):
        highest, probes, answers = asyncio.run(_watched(server, honest, time.monotonic() + seconds))
    time.sleep(_REST)
    after = server.rss_mib()
    served = [seconds for seconds in answers if seconds <= _PATIENCE]
    return [
        line(name, "/livez", 1000 * percentile(probes, 99), "ms, p99", (AT_MOST, 250.0)),
        line(name, "honest requests", len(served) / len(answers), f"served within {_PATIENCE:g} s", (AT_LEAST, 1.0)),
        line(name, "honest requests", 1000 * percentile(answers, 50), "ms, p50"),
        line(name, "memory before", before, "MiB"),
        line(name, "memory, highest", highest, "MiB"),
        line(name, "memory after, of before", after / before, "x", (AT_MOST, 1.1)),
    ]


async def _warmed(server: Server, request: bytes) -> None:
    for _ in range(3):
        await http_load.once(server.http_port, request)


@contextmanager
def _attacking(attack: Attack, server: Server) -> Iterator[None]:
    """In a process of its own: copying bodies of 10 MB keeps an event loop, on which a probe would be timed, busy."""
    process = multiprocessing.get_context("fork").Process(target=_attack, args=(attack, server), daemon=True)
    process.start()
    try:
        yield
    finally:
        process.kill()
        process.join()


def _attack(attack: Attack, server: Server) -> None:
    with suppress(ExceptionGroup):
        asyncio.run(attack(server))


async def _watched(server: Server, honest: bytes, end: float) -> tuple[float, list[float], list[float]]:
    return await asyncio.gather(_highest(server, end), _probe(server, end), _ask(server, honest, end))


async def _probe(server: Server, end: float) -> list[float]:
    """Seconds that each probe took, on a connection of its own as the kubelet's."""
    found = []
    while time.monotonic() < end:
        found.append(await _timed(server, _LIVEZ))
        await asyncio.sleep(_PROBE_EVERY)
    return found


async def _ask(server: Server, request: bytes, end: float) -> list[float]:
    """Seconds from an honest request to its score, tries after a rejection that may pass included."""
    found = []
    while time.monotonic() < end:
        found.append(await _timed(server, request))
        await asyncio.sleep(_ASK_EVERY)
    return found


async def _timed(server: Server, request: bytes) -> float:
    began = time.monotonic()
    with suppress(TimeoutError):
        async with asyncio.timeout(2 * _PATIENCE):
            while not await _succeeds(server, request):  # noqa: ASYNC110
                await asyncio.sleep(0.2)
    return time.monotonic() - began


async def _succeeds(server: Server, request: bytes) -> bool:
    try:
        return (await http_load.once(server.http_port, request)).status == 200
    except (OSError, asyncio.IncompleteReadError):
        return False


async def _highest(server: Server, end: float) -> float:
    highest = 0.0
    while time.monotonic() < end:
        highest = max(highest, server.rss_mib())
        await asyncio.sleep(0.2)
    return highest


if __name__ == "__main__":
    main()
