"""What processes hold, looked at from outside, now and then."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import httpx
import redis.asyncio

from chaos.soak_rig import SoakRig

MIB = 2**20
IN_HAND = re.compile(r"^(?:varl_samples_in_flight|varl_rollout_jobs_in_hand)(?:\{.*\})? (\S+)$", re.MULTILINE)
Series = dict[str, list[float]]


def of_process(pid: int) -> dict[str, float]:
    """Memory in MiB, open files and threads of a process. Raises OSError where it has ended."""
    folder = Path(f"/proc/{pid}")
    status = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
    memory = float(status["VmRSS"].split()[0]) / 1024
    return {
        "rss_mib": memory,
        "files": float(len(list((folder / "fd").iterdir()))),
        "threads": float(status["Threads"]),
    }


class Sampler:
    """Takes samples of all parts; ``series`` has a column for each part and quantity, and "seconds"."""

    def __init__(self, rig: SoakRig) -> None:
        self._rig = rig
        self.series: Series = {"seconds": []}

    async def run(self, seconds: float, every: float, tell: Callable[[float], None]) -> None:
        """Sample for so long. Raises OSError where a part has ended."""
        began = time.monotonic()
        async with redis.asyncio.Redis(port=self._rig.redis_port) as client, httpx.AsyncClient(timeout=30) as http:
            while (now := time.monotonic() - began) < seconds:
                self._add(
                    {"seconds": now, **self._processes(), **await self._redis(client), **await self._in_hand(http)}
                )
                tell(now)
                await asyncio.sleep(max(0.0, now + every - (time.monotonic() - began)))

    def _add(self, values: dict[str, float]) -> None:
        for name, value in values.items():
            self.series.setdefault(name, []).append(value)

    def _processes(self) -> dict[str, float]:
        pids = {name: part.pid for name, part in self._rig.parts.items()}
        return {
            f"{name} {quantity}": value for name, pid in pids.items() for quantity, value in of_process(pid).items()
        }

    async def _redis(self, client: redis.asyncio.Redis) -> dict[str, float]:
        return {"redis used_mib": int(cast(Any, await client.info("memory"))["used_memory"]) / MIB}

    async def _in_hand(self, http: httpx.AsyncClient) -> dict[str, float]:
        """Requests and jobs that each part has in hand, by its own metrics.

        The tasks of its event loop that load brings about.
        """
        pages = {
            name: (await http.get(f"http://127.0.0.1:{port}/metrics")).text
            for name, port in self._rig.metrics_ports.items()
        }
        found = {name: IN_HAND.findall(page) for name, page in pages.items()}
        return {f"{name} in_hand": sum(map(float, values)) for name, values in found.items() if values}
