"""One sample on which the model fails among 32: what becomes of the others, and how many forwards that takes."""

from __future__ import annotations

import asyncio
import json
import re

import numpy as np
from PIL import Image

from benchmarks.serving import http_load
from benchmarks.serving.payload import encode, samples_body
from benchmarks.serving.processes import Server, running
from benchmarks.serving.table import AT_LEAST, AT_MOST, line
from benchmarks.serving.toy_service import POISON
from benchmarks.shared import Row

_POISONED = 13


def measure() -> list[Row]:
    """Right answers of 31, and forwards."""
    with running("benchmarks.serving.toy_service", "--batch", "32", "--wait-ms", "1000") as server:
        right, forwards = asyncio.run(_poisoned(server))
    return [
        line("1 poison item among 32", "varl, HTTP JSON", right, "right answers", (AT_LEAST, 31)),
        line("1 poison item among 32", "varl, HTTP JSON", forwards, "forwards", (AT_MOST, 11)),
    ]


async def _poisoned(server: Server) -> tuple[int, int]:
    values = [8 * index for index in range(32)]
    sent = [(POISON if index == _POISONED else "", encode(grey(value))) for index, value in enumerate(values)]
    before = await forwards_of(server)
    answer = await http_load.once(server.http_port, http_load.post("/v1/score", samples_body(sent)))
    results = json.loads(answer.body)["results"]
    right = sum(result.get("value") == value / 255 for result, value in zip(results, values, strict=True))
    return right, await forwards_of(server) - before


def grey(level: int) -> Image.Image:
    """A picture that the toy scores level / 255."""
    return Image.fromarray(np.full((8, 8, 3), level, np.uint8))


async def forwards_of(server: Server) -> int:
    """Forwards of the model so far, failed ones included."""
    text = (await http_load.once(server.http_port, http_load.get("/metrics"))).body.decode()
    return sum(int(float(value)) for value in re.findall(r"^varl_executions_total\{.*\} (.*)$", text, re.MULTILINE))
