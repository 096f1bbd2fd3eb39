"""A real HTTP server with the compat routes, over real services with a small model that does as its prompt says."""

from __future__ import annotations

import asyncio
import base64
import io
import math
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import uvicorn
from fastapi import FastAPI
from PIL import Image

from varl.services.serving.batching.batcher import Batcher
from varl.services.serving.batching.queue import BatchLimits
from varl.services.serving.compat.mount import mount_compat
from varl.services.serving.http import problems
from varl.services.serving.reward_source import RewardAnswer
from varl.services.serving.scoring import (
    ErrorCode,
    ModelInfo,
    Outcome,
    SampleError,
    SampleScore,
    ScoreBatch,
    Scorer,
    ScorerSample,
)
from varl.services.serving.service import ScoringService
from varl.services.serving.settings import ServingSettings
from varl.services.serving.status import RejectionCode, RequestRejectedError

PATIENCE = 240.0  # seconds that any one wait may take on a busy machine; no test asserts a duration


class ToyScorer:
    """Value: how bright the image is, 0 to 1, or the number of target words where there are any; "twice": double."""

    formulas = ("plain", "twice")
    model = ModelInfo("toy", "brightness", "1")

    def __init__(self, reward: str) -> None:
        self.reward = reward
        self.batcher: Batcher[ScorerSample, float] = Batcher(lambda: self._forward, BatchLimits(8))

    async def start(self) -> None:
        await self.batcher.start()

    def check(self, prompt: str, target_words: tuple[str, ...]) -> SampleError | None:
        return SampleError(ErrorCode.NO_TARGET, "prompt: asks for nothing") if prompt == "nothing" else None

    async def score(self, sample: ScorerSample, formula: str) -> Outcome:
        value = await self.batcher.submit(sample, deadline=sample.deadline) * (2 if formula == "twice" else 1)
        return SampleScore(value, {"bright": value})

    async def close(self) -> None:
        await self.batcher.close()

    def _forward(self, samples: Sequence[ScorerSample]) -> list[float]:
        if any(sample.prompt == "poison" for sample in samples):
            raise RuntimeError("poisoned")
        return [self._value(sample) for sample in samples]

    def _value(self, sample: ScorerSample) -> float:
        if sample.prompt == "nan":
            return math.nan
        return float(len(sample.target_words)) if sample.target_words else float(sample.pixels.mean()) / 255


class Several:
    """Several services as one source, which can be told to turn batches away first."""

    def __init__(self, services: Mapping[str, ScoringService]) -> None:
        self.services = services
        self.refusals: deque[RequestRejectedError] = deque()
        self.batches: list[tuple[ScoreBatch, tuple[str, ...]]] = []
        self.state: dict[str, str] = {}

    def counted(self, protocol: str) -> AbstractContextManager[None]:
        return next(iter(self.services.values())).counted(protocol)

    @property
    def rewards(self) -> tuple[str, ...]:
        return tuple(self.services)

    def states(self) -> Mapping[str, str]:
        return {name: str(service.state) for name, service in self.services.items()} | self.state

    async def score_rewards(self, batch: ScoreBatch, rewards: Sequence[str]) -> Mapping[str, RewardAnswer]:
        self.batches.append((batch, tuple(rewards)))
        if self.refusals:
            return dict.fromkeys(rewards, self.refusals.popleft())
        return {name: (await self.services[name].score_rewards(batch, [name]))[name] for name in rewards}


class Rig:
    """Where the server listens, and the source behind it."""

    def __init__(self, url: str, source: Several) -> None:
        self.url, self.source = url, source


def overloaded() -> RequestRejectedError:
    return RequestRejectedError(RejectionCode.OVERLOADED, "no room", retry_after=0.0)


@contextmanager
def serving(*scorers: Scorer, **changes: Any) -> Iterator[Rig]:  # noqa: ANN401
    """A server over one service a scorer."""
    settings = ServingSettings(**changes)
    with serving_app(lambda: {scorer.reward: ScoringService(settings, scorer) for scorer in scorers}, settings) as rig:
        yield rig


@contextmanager
def serving_app(build: Callable[[], Mapping[str, ScoringService]], settings: ServingSettings) -> Iterator[Rig]:
    listener = socket.create_server(("127.0.0.1", 0))
    started, found = threading.Event(), []

    async def main() -> None:
        services = build()
        for service in services.values():
            await service.start()
        source = Several(services)
        app = FastAPI()
        problems.install(app)
        mount_compat(app, source, settings)
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off", loop="asyncio"))
        found.append((server, source))
        started.set()
        await server.serve(sockets=[listener])
        for service in services.values():
            await service.close()

    thread = threading.Thread(target=lambda: asyncio.run(main()), daemon=True)
    thread.start()
    assert started.wait(PATIENCE), "the server did not start"
    server, source = found[0]
    try:
        yield Rig(f"http://127.0.0.1:{listener.getsockname()[1]}", source)
    finally:
        server.should_exit = True
        thread.join(PATIENCE)


def grey(level: int, form: str = "PNG") -> bytes:
    """A small image file; with ToyScorer's value level / 255."""
    buffer = io.BytesIO()
    Image.fromarray(np.full((16, 16, 3), level, np.uint8)).save(buffer, form)
    return buffer.getvalue()


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()
