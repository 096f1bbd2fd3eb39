"""Faults of processes: killed, or stopped for a while; the trainer at each phase of an update."""

from __future__ import annotations

import asyncio
import signal
from typing import Any, cast

from chaos.part import Part
from chaos.rig import MAX_DELIVERIES, MIN_IDLE_S, Rig, serving
from chaos.strike import Field, Strike
from varl.trajectories.codec import decode_job

WAITING = r"update (\d+): waiting for groups"
UPDATING = r"update (\d+): updating on"
WRITING = r"checkpoint (\d+): writing"
POLL_S = 0.002
TOLD_TO_STOP = 128 + signal.SIGTERM


async def rollout_kill(field: Field, strike: Strike) -> None:
    """SIGKILL a worker that may have jobs in hand."""
    rig, index = field.rig, strike.fault.worker
    await rig.trainer.log.wait(WAITING, rig.trainer.log.end())
    await asyncio.sleep(strike.fault.delay_s)
    await _kill(rig.workers[index], strike)
    await serving(rig.worker_ports[index])
    strike.back(hit=True)


async def rollout_stop(field: Field, strike: Strike) -> None:
    """Stop a worker for so long that its jobs go to the other one, then let it go on with them."""
    rig, index = field.rig, strike.fault.worker
    await rig.trainer.log.wait(WAITING, rig.trainer.log.end())
    await asyncio.sleep(strike.fault.delay_s)
    marks = [worker.log.end() for worker in rig.workers]
    async with rig.workers[index].stopped():
        strike.now(rig.workers[index].name)
        await asyncio.sleep(MIN_IDLE_S + strike.fault.lasts_s)
    await serving(rig.worker_ports[index])
    again = any(worker.log.find(r"\(delivery [2-9]", mark) for worker, mark in zip(rig.workers, marks, strict=True))
    taken = "its job went to the other worker" if again else "it had no job"
    strike.back(
        hit=again,
        detail=f"stopped for {MIN_IDLE_S + strike.fault.lasts_s:.1f} s, heartbeat limit {MIN_IDLE_S:g} s; {taken}",
    )


async def deadly_job(field: Field, strike: Strike) -> None:
    """SIGKILL whichever worker takes one job, again and again: workers are held back until the job is known."""
    rig, log = field.rig, field.rig.trainer.log
    position, _ = await log.wait(r"update (\d+): (?!waiting|updating)", log.end())
    with rig.worker_redis.stalled():
        position, match = await log.wait(WAITING, position)
        entry, job_id = await _first_job(rig, int(match[1]))
    strike.now(job_id)
    deaths = 0
    while await rig.redis.xrange(rig.key("jobs"), entry, entry):
        deaths += await _kill_holder(rig, entry)
        await asyncio.sleep(POLL_S)
    await log.wait(rf"update {match[1]}: updating on", position)
    given_up = bool(log.find(rf"{job_id} \(.* is given up for", position))
    for port in rig.worker_ports:
        await serving(port)
    strike.back(
        hit=given_up,
        detail=f"{deaths} workers died of it; " + ("another prompt took its place" if given_up else "it was done"),
    )


async def _first_job(rig: Rig, update: int) -> tuple[str, str]:
    """Entry and id of the first job of an update, once it is in the stream."""
    while True:
        for entry, fields in cast(Any, await rig.redis.xrange(rig.key("jobs"))):
            job = decode_job(fields[b"m"])
            if job.update == update:
                return entry.decode(), job.job_id
        await asyncio.sleep(POLL_S)


async def _kill_holder(rig: Rig, entry: str) -> bool:
    """Kill the worker that holds an entry; False where no live worker does, or only to bury it as delivered too often.

    A worker's name ends in its process id and a random part.
    """
    held = cast(Any, await rig.redis.xpending_range(rig.key("jobs"), "workers", entry, entry, 1))
    pids = {int(row["consumer"].decode().rsplit("-", 2)[1]) for row in held if row["times_delivered"] <= MAX_DELIVERIES}
    for worker in rig.workers:
        if worker.running and worker.pid in pids:
            await worker.strike(signal.SIGKILL)
            return True
    return False


async def ocr_kill(field: Field, strike: Strike) -> None:
    """SIGKILL the OCR service."""
    await asyncio.sleep(strike.fault.delay_s)
    await _kill(field.rig.ocr, strike)
    await serving(field.rig.ocr_link.port)
    strike.back(hit=True)


async def trainer_kill_waiting(field: Field, strike: Strike) -> None:
    """SIGKILL the trainer while it waits for groups."""
    log = field.rig.trainer.log
    position, match = await log.wait(WAITING, log.end())
    await asyncio.sleep(strike.fault.delay_s / 4)
    await _kill_trainer(field, strike, position, rf"update {match[1]}: updating on")


async def trainer_kill_updating(field: Field, strike: Strike) -> None:
    """SIGKILL the trainer during an update."""
    log = field.rig.trainer.log
    position, match = await log.wait(UPDATING, log.end())
    await asyncio.sleep(strike.fault.delay_s / 8)
    await _kill_trainer(field, strike, position, rf"update {match[1]}: (?!updating on)")


async def trainer_kill_checkpoint(field: Field, strike: Strike) -> None:
    """SIGKILL the trainer once part of a checkpoint is on the disk."""
    position, number = await _checkpoint_begun(field)
    await _kill_trainer(field, strike, position, rf"checkpoint {number}: (?!writing)")


async def trainer_kill_unacknowledged(field: Field, strike: Strike) -> None:
    """SIGKILL the trainer between a checkpoint and its acknowledgement, which a stalled proxy holds back."""
    rig = field.rig
    position, number = await _checkpoint_begun(field)
    with rig.trainer_redis.stalled():
        await rig.trainer.log.wait(rf"checkpoint {number}: (complete|could not)", position)
        await _kill(rig.trainer, strike)
    hit = bool(rig.trainer.log.find(rf"checkpoint {number}: complete", position))
    await _trainer_back(
        field, strike, hit and not rig.trainer.log.find(rf"checkpoint {number}: acknowledged", position)
    )


async def trainer_stop(field: Field, strike: Strike) -> None:
    """SIGTERM to the trainer while it waits for groups, as by a drained node: it saves what it has."""
    log = field.rig.trainer.log
    position, _ = await log.wait(WAITING, log.end())
    await asyncio.sleep(strike.fault.delay_s / 4)
    strike.now("trainer")
    await field.rig.trainer.strike(signal.SIGTERM)
    saved = log.find(r"told to stop: saving update (\d+)", position)
    await _trainer_back(field, strike, bool(saved) and field.rig.trainer.exits[-1].status == TOLD_TO_STOP)


async def trainer_foreign(field: Field, strike: Strike) -> None:
    """Start a second trainer on the run, which must be told who holds it: by its directory, or by its name alone."""
    rig = field.rig
    await rig.trainer.log.wait(WAITING, rig.trainer.log.end())
    elsewhere = ["--run.dir", str(rig.spec.out / "foreign")] if strike.fault.worker else []
    strike.now("a second trainer", "in another directory" if elsewhere else "in the same directory")
    status, said = await rig.spec.run(rig.trainer_command(*elsewhere))
    told = "is held by the trainer in" if elsewhere else "is in use by process"
    strike.back(hit=status == 1 and told in said, detail=f"{strike.detail}: status {status}, {said.splitlines()[-1:]}")


async def _checkpoint_begun(field: Field) -> tuple[int, int]:
    """Position of the line that announces a checkpoint, and its number, once its folder is there.

    Redis has been asked by then.
    """
    log = field.rig.trainer.log
    position, match = await log.wait(WRITING, log.end())
    part = field.rig.spec.directory / "checkpoints" / f".{int(match[1]):06d}.part"
    while not part.exists() and not log.find(rf"checkpoint {match[1]}: complete", position):  # noqa: ASYNC110
        await asyncio.sleep(POLL_S)
    return position, int(match[1])


async def _kill_trainer(field: Field, strike: Strike, position: int, too_late: str) -> None:
    await _kill(field.rig.trainer, strike)
    await _trainer_back(field, strike, not field.rig.trainer.log.find(too_late, position))


async def _trainer_back(field: Field, strike: Strike, hit: bool) -> None:
    trainer = field.rig.trainer
    phase = next((line for line in reversed(trainer.log.lines) if ": " in line and "trainer: " in line), "").rpartition(
        "trainer: "
    )[2]
    await trainer.ready(trainer.log.end())
    strike.back(hit, detail=f"its last line was {phase!r}")


async def _kill(part: Part, strike: Strike) -> None:
    strike.now(part.name)
    await part.strike(signal.SIGKILL)
