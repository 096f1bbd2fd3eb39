"""Engine instances, each built and used by one thread of its own: OCR pipelines are not thread-safe (PaddleOCR#18268)."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

from services.ocr.engines.base import Engine, EngineFailure, EngineModel, Image, Reading


@dataclass(frozen=True)
class _Task:
    image: Image
    answer: Future[Reading]


class EnginePool:
    """Reads images on the first instance that is free; a caller that goes away before its turn costs nothing."""

    def __init__(self, build: Callable[[], Engine], size: int) -> None:
        self._build = build
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._started: list[Future[EngineModel]] = [Future() for _ in range(size)]
        self._threads = [threading.Thread(target=self._work, args=(started,), daemon=True, name="ocr-engine") for started in self._started]

    async def start(self) -> EngineModel:
        """Build every instance; raises what building the first that fails raised."""
        for thread in self._threads:
            thread.start()
        models = await asyncio.gather(*(asyncio.wrap_future(started) for started in self._started))
        return models[0]

    async def read(self, image: Image) -> Reading:
        """The reading of one uint8 [H, W, 3] RGB image."""
        answer: Future[Reading] = Future()
        self._tasks.put(_Task(image, answer))
        return await asyncio.wrap_future(answer)

    async def close(self) -> None:
        """Let the threads finish what was put in before, then end them."""
        for _ in self._threads:
            self._tasks.put(None)
        await asyncio.to_thread(self._join)

    def _join(self) -> None:
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    def _work(self, started: Future[EngineModel]) -> None:
        try:
            engine = self._build()
        except Exception as error:  # handed to whoever awaits start
            started.set_exception(error)
            return
        started.set_result(engine.model)
        while (task := self._tasks.get()) is not None:
            if task.answer.set_running_or_notify_cancel():
                task.answer.set_result(_read_one(engine, task.image))


def _read_one(engine: Engine, image: Image) -> Reading:
    try:
        (reading,) = engine.read([image])
    except Exception as error:  # an engine's defect must not end its thread
        return EngineFailure(f"{type(error).__name__}: {error}")
    return reading
