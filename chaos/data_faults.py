"""Faults of data: rubbish in the streams, a job that nobody can do, damaged weights, a disk without room."""

from __future__ import annotations

import asyncio
import resource
from pathlib import Path

from chaos.process_faults import UPDATING
from chaos.rig import MAX_PROMPT_CHARS
from chaos.strike import Field, Strike, digest
from varl.trajectories.codec import encode_job
from varl.trajectories.job_checks import SCHEMA
from varl.v1 import rollout_pb2

ROOM_BYTES = 2**20  # of any one file: enough for metrics and logs, too little for weights
FLIPPED = 64  # bytes of a damaged file


async def poison_prompt(field: Field, strike: Strike) -> None:
    """Put a valid job into the stream, as if from outside, whose prompt is too long for the reward service."""
    job = rollout_pb2.RolloutJob(
        run_id=field.rig.spec.name,
        job_id=f"poison/{strike.fault.index}",
        prompt="x" * (MAX_PROMPT_CHARS - 1),
        target_words=["POISON"],
        stage=rollout_pb2.STAGE_FULL,
        group_size=2,
        continuations=1,
        sampling=rollout_pb2.Sampling(temperature=1.0, top_p=1.0),
        rewards=["ocr"],
        schema=SCHEMA,
        log_probs=rollout_pb2.LOG_PROBS_PLAIN,
    )
    await _put(field, strike, "jobs", encode_job(job))


async def malformed_job(field: Field, strike: Strike) -> None:
    """Put bytes into the stream of jobs that are none."""
    await _put_rubbish(field, strike, "jobs")


async def malformed_trajectory(field: Field, strike: Strike) -> None:
    """Put bytes into the stream of trajectories that are none."""
    await _put_rubbish(field, strike, "trajectories")


async def weights_corrupt(field: Field, strike: Strike) -> None:
    """Flip bytes of a weight file between its publication and the first look of a worker at it.

    Workers are held back meanwhile.
    """
    rig, log = field.rig, field.rig.trainer.log
    position, _ = await log.wait(r"update (\d+): (?!waiting|updating)", log.end())
    with rig.worker_redis.stalled():
        position, match = await log.wait(r"update (\d+): waiting for groups", position)
        path = rig.spec.directory / "weights" / f"v{int(match[1]):06d}.safetensors"
        strike.now(path.name)
        flip(path)
    position, _ = await log.wait(UPDATING, position)
    repaired = bool(log.find(rf"weights {match[1]} are published again", 0, position))
    strike.back(hit=repaired, detail="refused by the workers, published again" if repaired else "nobody had to read it")


async def disk_full(field: Field, strike: Strike) -> None:
    """Let the trainer write no file as large as a checkpoint's.

    What a full disk does, without taking the disk from others.
    """
    rig, log, every = field.rig, field.rig.trainer.log, field.rig.recipe.checkpoint.every
    number, position = 1, log.end()
    while number % every:
        position, match = await log.wait(UPDATING, position)
        number, position = int(match[1]) + 1, position + 1
    pid = await rig.trainer.up()
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    strike.now("trainer", f"no file above {ROOM_BYTES} bytes")
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (ROOM_BYTES, before[1]))
    ends = len(rig.trainer.exits)
    outcome = asyncio.create_task(log.wait(rf"checkpoint {number}: (could not be written|complete)", position))
    while not outcome.done() and len(rig.trainer.exits) == ends:  # noqa: ASYNC110
        await asyncio.sleep(0.005)
    outcome.cancel()
    if len(rig.trainer.exits) == ends:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)
    await log.wait(r"checkpoint (\d+): complete", log.end())
    postponed = bool(log.find(rf"checkpoint {number}: could not be written", position))
    ended = [f"then the trainer ended and went on: {end.last_words}" for end in rig.trainer.exits[ends:]]
    strike.back(
        hit=postponed, detail="; ".join(["checkpoint postponed" if postponed else "checkpoint not postponed", *ended])
    )


def flip(path: Path) -> None:
    """Invert some bytes in the middle of a file."""
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        old = file.read(FLIPPED)
        file.seek(-len(old), 1)
        file.write(bytes(byte ^ 0xFF for byte in old))


async def _put_rubbish(field: Field, strike: Strike, stream: str) -> None:
    payload = b"\xff" + f"rubbish {strike.fault.index} for {stream}".encode()  # no message of protobuf begins with 0xff
    field.rubbish[digest(payload)] = f"{strike.fault.kind}, fault {strike.fault.index}"
    await _put(field, strike, stream, payload)


async def _put(field: Field, strike: Strike, stream: str, payload: bytes) -> None:
    key, client = field.rig.key(stream), field.rig.redis
    strike.now(f"stream of {stream}")
    entry = await client.xadd(key, {"m": payload})
    while await client.xrange(key, entry, entry):  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    strike.back(hit=True, detail="taken off the stream")
