"""Lets a schedule of faults loose on a run, and notes of each how long the part and the run needed to work again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from chaos import data_faults, process_faults, redis_faults
from chaos.rig import Rig
from chaos.schedule import Fault, Kind
from chaos.strike import Field, Injector, Strike

PART_LIMIT_S = 240.0  # for trigger, fault and recovery together
GRACE_S = 20.0  # after the run's end, for what is still being looked at
MODULES = (process_faults, redis_faults, data_faults)
TRAINER_KINDS = (Kind.DISK_FULL, Kind.WEIGHTS_CORRUPT)
UPDATE_DONE = r"update (\d+): (?!waiting|updating|guards|dropped)"


@dataclass(frozen=True)
class Record:
    """Result of one fault. Seconds.

    ``at_s`` counts from the run's first line, part_s and run_s from the strike: None, where it never was.

    hit: it met what it was meant for. part_s: until the part that it struck worked again. run_s: until the trainer had
    done an update after that.
    """

    index: int
    kind: Kind
    due: int
    target: str
    at_s: float | None
    hit: bool
    part_s: float | None
    run_s: float | None
    detail: str

    @property
    def survived(self) -> bool:
        """Whether it was tried, and part and run went on."""
        return self.at_s is not None and self.part_s is not None and self.run_s is not None


def injector(kind: Kind) -> Injector:
    """The function of this kind's name."""
    found: Injector = next(getattr(module, kind.value) for module in MODULES if hasattr(module, kind.value))
    return found


def lane(fault: Fault) -> str:
    """Faults of one lane wait for each other; those of different lanes may overlap."""
    if fault.kind.startswith("rollout"):
        return f"rollout-{fault.worker}"
    if fault.kind.startswith("ocr"):
        return "ocr"
    return "trainer" if fault.kind.startswith("trainer") or fault.kind in TRAINER_KINDS else "redis"


class Driver:
    """One run under one schedule."""

    def __init__(self, rig: Rig, faults: Sequence[Fault], say: Callable[[str], None]) -> None:
        self.field = Field(rig)
        self._rig, self._faults, self._say = rig, faults, say
        self._began = time.monotonic()
        self._strikes: dict[int, Strike] = {}
        self._done_at: dict[int, float] = {}  # when the run went on, by fault
        self._tasks: list[asyncio.Task[None]] = []

    async def run(self) -> list[Record]:
        """Strike until the trainer has finished; a record for each planned fault."""
        feeding = asyncio.create_task(self._feed())
        await self._rig.trainer.finished.wait()
        feeding.cancel()
        await asyncio.wait([feeding, *self._tasks], timeout=GRACE_S)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(feeding, *self._tasks, return_exceptions=True)
        return [self._record(fault) for fault in self._faults]

    async def _feed(self) -> None:
        last: dict[str, asyncio.Task[None]] = {}
        for fault in self._faults:
            await self._rig.progress(fault.due)
            last[lane(fault)] = asyncio.create_task(self._one(fault, last.get(lane(fault))))
            self._tasks.append(last[lane(fault)])

    async def _one(self, fault: Fault, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await asyncio.wait({before})
        strike = self._strikes[fault.index] = Strike(fault)
        try:
            async with asyncio.timeout(PART_LIMIT_S):
                await injector(fault.kind)(self.field, strike)
                await self._next_update()
        except Exception as error:
            strike.detail += f" {type(error).__name__}: {error}"
        else:
            self._done_at[fault.index] = time.monotonic()
        self._say(_line(self._record(fault), len(self._faults)))

    async def _next_update(self) -> None:
        """Wait for the end of an update, or of the run."""
        trainer = self._rig.trainer
        waits = [
            asyncio.create_task(trainer.log.wait(UPDATE_DONE, trainer.log.end())),
            asyncio.create_task(trainer.finished.wait()),
        ]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    def _record(self, fault: Fault) -> Record:
        strike = self._strikes.get(fault.index) or Strike(fault, detail="the run ended before its turn")
        struck, back, done = strike.struck_at, strike.back_at, self._done_at.get(fault.index)
        return Record(
            index=fault.index,
            kind=fault.kind,
            due=fault.due,
            target=strike.target,
            at_s=None if struck is None else round(struck - self._began, 2),
            hit=strike.hit,
            part_s=None if struck is None or back is None else round(back - struck, 2),
            run_s=None if struck is None or done is None else round(done - struck, 2),
            detail=strike.detail,
        )


def _line(record: Record, total: int) -> str:
    came = f"part back after {record.part_s} s, run after {record.run_s} s" if record.survived else "LOST"
    aim = "" if record.hit else " (missed its aim)"
    return f"{record.index + 1}/{total} {record.kind.value} on {record.target or '-'}{aim}: {came}; {record.detail}"
