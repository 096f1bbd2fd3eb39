"""A model for the batcher whose every forward waits for the test, and that watches for what must never happen."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from varl.services.serving.batching.batcher import Batcher
from varl.services.serving.batching.forward import Model
from varl.services.serving.batching.queue import BatchLimits, FatalModelError

Step = Literal["go", "short", "fatal", "exit"]
PATIENCE = 60  # seconds until a wait counts as hung


@dataclass(eq=False)
class Thing:
    """An item: ``poison`` makes every forward fail that it is in."""

    number: int
    poison: bool = False
    cost: float = 1.0
    deadline: float | None = None
    cancelled: bool = False


class Lane:
    """One instance of the model."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.thread = threading.current_thread()
        self.inside: tuple[Thing, ...] = ()
        self.entered = threading.Event()
        self.steps: queue.SimpleQueue[Step] = queue.SimpleQueue()

    def __call__(self, things: Sequence[Thing]) -> Sequence[int]:
        self.rig.note(threading.current_thread() is not self.thread, "an instance was called from another thread")
        self.rig.note(bool(self.inside), "an instance was called twice at a time")
        self.rig.enter(things)
        self.inside = tuple(things)
        self.entered.set()
        step: Step = "go" if self.rig.open else self.steps.get(timeout=PATIENCE)
        self.inside = ()
        return self.rig.answer(things, step)


@dataclass
class Rig:
    """What all instances share. ``open``: forwards no longer wait. ``capacity``: cost above which memory runs out."""

    open: bool = False
    capacity: float = 1e9
    max_items: int = 10**9
    max_cost: float = 1e9
    clock: Callable[[], float] = lambda: 0.0
    lanes: list[Lane] = field(default_factory=list)
    forwards: list[tuple[int, ...]] = field(default_factory=list)
    answered: Counter[int] = field(default_factory=Counter)
    shortened: set[int] = field(default_factory=set)
    violations: list[str] = field(default_factory=list)

    def build(self) -> Model[Thing, int]:
        lane = Lane(self)
        self.lanes.append(lane)
        return lane

    def note(self, wrong: bool, text: str) -> None:
        if wrong:
            self.violations.append(text)

    def enter(self, things: Sequence[Thing]) -> None:
        self.forwards.append(tuple(thing.number for thing in things))
        now, cost = self.clock(), sum(thing.cost for thing in things)
        self.note(not things, "an empty batch")
        self.note(len(things) > self.max_items, f"{len(things)} items in a batch")
        self.note(len(things) > 1 and cost > self.max_cost, f"a batch of cost {cost}")
        for thing in things:
            self.note(thing.cancelled, f"{thing.number} was cancelled before")
            self.note(thing.deadline is not None and thing.deadline <= now, f"{thing.number} was late before")
            self.note(self.answered[thing.number] > 0, f"{thing.number} had its answer before")

    def answer(self, things: Sequence[Thing], step: Step) -> Sequence[int]:
        if step == "fatal":
            raise FatalModelError("an illegal memory access")
        if step == "exit":
            raise SystemExit
        if sum(thing.cost for thing in things) > self.capacity:
            raise MemoryError("no memory")
        if any(thing.poison for thing in things):
            raise ValueError("poison")
        if step == "short":
            self.shortened.update(thing.number for thing in things)
            return [0] * (len(things) + 1)
        self.answered.update(thing.number for thing in things)
        return [right(thing) for thing in things]


def right(thing: Thing) -> int:
    """The one right answer to an item."""
    return 7 * thing.number + 1


async def started(rig: Rig, limits: BatchLimits, lanes: int = 1) -> Batcher[Thing, int]:
    batcher: Batcher[Thing, int] = Batcher(rig.build, limits, lanes)
    await batcher.start()
    return batcher


async def submit_all(batcher: Batcher[Thing, int], things: Sequence[Thing]) -> list[int | BaseException]:
    return await asyncio.gather(*(batcher.submit(thing, cost=thing.cost) for thing in things), return_exceptions=True)


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0)


async def inside(lane: Lane, *numbers: int) -> None:
    """Wait until the instance holds exactly these items."""
    await until(lambda: tuple(thing.number for thing in lane.inside) == numbers)


async def held(rig: Rig, batcher: Batcher[Thing, int], thing: Thing) -> asyncio.Task[int]:
    """An item alone inside the only instance."""
    task = asyncio.create_task(batcher.submit(thing))
    await inside(rig.lanes[0], thing.number)
    return task
