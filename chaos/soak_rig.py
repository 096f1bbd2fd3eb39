"""What a soak runs: Redis, both rewards, the gateway before them, and a rollout worker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from chaos.home import REDIS_READY, ROOT, Home, flags, module
from chaos.part import Part
from varl.launch.ports import reserve_port

RUN_ID = "soak"
MODEL_DIR = ROOT / "checkpoints" / "tiny"
PREFERENCE = ROOT / "checkpoints" / "hpsv3-tiny-synthetic"


@dataclass(frozen=True)
class SoakRig:
    """Running parts by name, and their ports."""

    parts: dict[str, Part]
    redis_port: int
    grpc_ports: dict[str, int]
    gateway_port: int
    metrics_ports: dict[str, int]


@asynccontextmanager
async def soak_rig(home: Home) -> AsyncIterator[SoakRig]:
    """Everything ready; stopped at the end of the block, last started first."""
    home.make()
    redis, ocr_http, ocr_grpc, hpsv3_http, hpsv3_grpc, gateway, rollout_grpc, rollout_metrics = (
        reserve_port() for _ in range(8)
    )
    rewards = [f"ocr=127.0.0.1:{ocr_grpc}", f"hpsv3=127.0.0.1:{hpsv3_grpc}"]
    preference = {"checkpoint": PREFERENCE, "device": "cpu", "dtype": "float32"}
    rollout = {
        "redis-url": f"redis://127.0.0.1:{redis}",
        "run-id": RUN_ID,
        "model-dir": MODEL_DIR,
        "grpc-port": rollout_grpc,
    }
    rollout |= {"metrics-port": rollout_metrics}
    asked = [part for reward in rewards for part in ("--reward", reward)]
    parts = {
        "redis": home.part("redis", home.redis_command(redis), REDIS_READY),
        "ocr": home.part("ocr", module("varl.services.ocr", *flags({"http-port": ocr_http, "grpc-port": ocr_grpc}))),
        "hpsv3": home.part(
            "hpsv3",
            module("varl.services.hpsv3", *flags({"http-port": hpsv3_http, "grpc-port": hpsv3_grpc} | preference)),
        ),
        "gateway": home.part("gateway", module("varl.services.gateway", *asked, "--http-port", str(gateway))),
        "rollout": home.part("rollout", module("varl.services.rollout", *asked, *flags(rollout))),
    }
    ports = {"ocr": ocr_http, "hpsv3": hpsv3_http, "gateway": gateway, "rollout": rollout_metrics}
    try:
        for part in parts.values():
            part.start()
        await asyncio.gather(*(part.ready(0) for part in parts.values()))
        yield SoakRig(parts, redis, {"ocr": ocr_grpc, "hpsv3": hpsv3_grpc}, gateway, ports)
    finally:
        for part in reversed(parts.values()):
            await part.stop()
