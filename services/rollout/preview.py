"""A picture of a prompt after each scale, for somebody who watches: what the page of the service asks for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

from varl.policy.base import SamplingParams
from varl.policy.generate import generate_by_scale
from varl.services.rollout.generation import Limits, check_prompt
from varl.services.rollout.images import encode_png
from varl.services.rollout.model import WeightSource
from varl.services.rollout.places import NoPlaceError, Places
from varl.services.rollout.service import Model
from varl.services.serving.status import FieldFault, RejectionCode, RequestRejectedError, invalid

BASE, CURRENT = "base", "current"
_SUFFIX = ".safetensors"


@dataclass(frozen=True)
class Wish:
    """One picture: what is drawn, and with which of the weights on offer."""

    prompt: str
    seed: int
    params: SamplingParams
    weights: str = BASE


@dataclass(frozen=True)
class Frame:
    """The picture after a scale, its index from 0, as a PNG file."""

    scale: int
    png: bytes


class PreviewFailedError(Exception):
    """The picture cannot be drawn; nothing is left running."""


Frames = asyncio.Queue[Frame | PreviewFailedError | None]  # None: no more


class Preview:
    """Draws pictures scale by scale. ``model`` is None until the policy is loaded and while the worker stops.

    Weights are chosen by name: the base model's, those that the worker holds for its run, and the files of ``folder``,
    which is all that can be read. Afterwards the model holds again what it held. Belongs to one event loop.
    """

    def __init__(self, default: SamplingParams, limits: Limits, places: Places, folder: Path | None) -> None:
        self.default, self.limits = default, limits
        self.model: Model | None = None
        self._places, self._folder = places, folder
        self._tasks: set[asyncio.Task[None]] = set()

    def loaded(self) -> Model:
        """The model; raises RequestRejectedError while there is none."""
        if self.model is None:
            raise RequestRejectedError(RejectionCode.NOT_READY, "no policy is loaded", retry_after=1.0)
        return self.model

    def weights(self) -> dict[str, WeightSource]:
        """What there is to choose from, by name."""
        held = self.loaded().weights.source
        files = sorted(self._folder.glob(f"*{_SUFFIX}")) if self._folder else []
        whole = [file for file in files if not file.stem.endswith(".delta")]  # a delta alone is no model
        current = {CURRENT: held} if held != WeightSource() else {}
        return {BASE: WeightSource()} | current | {file.stem: WeightSource(0, str(file)) for file in whole}

    def draw(self, wish: Wish) -> AsyncGenerator[Frame]:
        """The picture after each scale, drawn whether or not somebody reads on: no reader keeps the model waiting.

        Closing the iterator ends the work after the scale at hand. It raises PreviewFailedError.

        Raises:
            RequestRejectedError: such a picture cannot be drawn, or not now.

        """
        model, source = self.loaded(), self._checked(wish)
        try:
            self._places.take()
        except NoPlaceError as error:
            raise RequestRejectedError(RejectionCode.OVERLOADED, str(error), retry_after=1.0) from error
        out: Frames = asyncio.Queue()  # a frame for each scale at most
        task = asyncio.create_task(_fill(model, source, wish, out))
        self._tasks.add(task)
        task.add_done_callback(self._done)  # whether or not anybody ever reads
        return _read(task, out)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._places.free()

    def _checked(self, wish: Wish) -> WeightSource:
        try:
            check_prompt(wish.prompt, self.limits)
        except ValueError as error:
            raise invalid(FieldFault("prompt", str(error).removeprefix("prompt "))) from error
        offered = self.weights()
        if wish.weights not in offered:
            raise invalid(FieldFault("weights", f"{wish.weights!r} is none of {', '.join(offered)}"))
        return offered[wish.weights]


async def _fill(model: Model, source: WeightSource, wish: Wish, out: Frames) -> None:
    """Draw with these weights, then hand the model back as it was."""
    try:
        async with model.thread.exclusive():
            held = model.weights.source
            try:
                failed = await model.thread.call(model.weights.use, source.version, source.path)
                if failed:
                    raise ValueError(failed)
                async with aclosing(model.thread.steps(_frames(model, wish))) as frames:
                    async for frame in frames:
                        out.put_nowait(frame)
            finally:
                await model.thread.call(model.weights.use, held.version, held.path)
    except ValueError as error:
        out.put_nowait(PreviewFailedError(str(error)))
    finally:
        out.put_nowait(None)


def _frames(model: Model, wish: Wish) -> Iterator[Frame]:
    for step in generate_by_scale(model.policy, wish.prompt, 1, wish.seed, wish.params):
        yield Frame(step.scale, encode_png(step.pixels[0]))


async def _read(task: asyncio.Task[None], out: Frames) -> AsyncGenerator[Frame]:
    try:
        while (item := await out.get()) is not None:
            if isinstance(item, PreviewFailedError):
                raise item
            yield item
        await task  # a defect is told here, not lost
    finally:
        task.cancel()
