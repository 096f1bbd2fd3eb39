"""What is left of a run: looked at from outside, on the disk, in Redis and among the processes."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from google.protobuf.message import DecodeError
from safetensors.torch import load_file

from chaos.driver import Record
from chaos.home import MARK
from chaos.part import Exit
from chaos.rig import Rig, RunSpec
from chaos.strike import digest
from varl.trainer.disk.metrics_log import METRICS_FILE, read_rows
from varl.trajectories.weight_files import tensors_digest
from varl.v1 import rollout_pb2

SETTLE_S = 20.0  # for workers to finish what they hold
GROUPS = {"jobs": "workers", "trajectories": "trainer"}
HALF_WRITTEN = ("*.part", "*.partial", ".*.part")


@dataclass(frozen=True)
class DeadLetter:
    """One entry of the dead-letter stream: digest of its payload, its reason, and the id of its job where it is one."""

    digest: str
    reason: str
    job_id: str


@dataclass(frozen=True)
class QueueLeft:
    """Entries and pending marks by stream, and the dead letters."""

    entries: Mapping[str, int]
    pending: Mapping[str, int]
    dead: Sequence[DeadLetter]


@dataclass(frozen=True)
class RunFacts:
    """What one run did. metrics: a row an update.

    ``named``: lines of its log that name a group which was replaced or dropped.
    """

    status: int | None
    metrics: Sequence[Mapping[str, Any]]
    base_digest: str
    final_digest: str | None
    named: Sequence[str] = ()


@dataclass(frozen=True)
class Evidence:
    """All that the invariants look at. rubbish: what was put into the streams, by digest."""

    updates: int
    groups: int
    calm: RunFacts
    disturbed: RunFacts
    queue: QueueLeft
    processes: Sequence[str]
    files: Sequence[str]
    exits: Sequence[Exit]
    rubbish: Mapping[str, str]
    records: Sequence[Record] = field(default_factory=list)


def run_facts(rig: Rig) -> RunFacts:
    """Metrics, weights and log of a run that has ended."""
    spec, ends = rig.spec, rig.trainer.exits
    final = spec.directory / "weights" / "final.safetensors"
    named = [line for line in rig.trainer.log.lines if " is given up for " in line or ": dropped " in line]
    return RunFacts(
        status=ends[-1].status if ends else None,
        metrics=read_rows(spec.directory / METRICS_FILE),
        base_digest=tensors_digest(load_file(rig.recipe.model.dir / "policy.safetensors")),
        final_digest=tensors_digest(load_file(final)) if final.exists() else None,
        named=named,
    )


async def queue_left(rig: Rig) -> QueueLeft:
    """What the streams hold, once the workers have had time to finish what they have in hand."""
    entries, pending = await _counts(rig)
    deadline = asyncio.get_running_loop().time() + SETTLE_S
    while any([*entries.values(), *pending.values()]) and asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(0.5)
        entries, pending = await _counts(rig)
    rows = cast(Any, await rig.redis.xrange(rig.key("dead")))
    return QueueLeft(entries, pending, [_dead_letter(fields) for _, fields in rows])


async def _counts(rig: Rig) -> tuple[dict[str, int], dict[str, int]]:
    keys = {stream: rig.key(stream) for stream in GROUPS}
    entries = {stream: int(await rig.redis.xlen(key)) for stream, key in keys.items()}
    pending = {
        stream: int(cast(Any, await rig.redis.xpending(keys[stream], group))["pending"])
        for stream, group in GROUPS.items()
    }
    return entries, pending


def _dead_letter(fields: Mapping[bytes, bytes]) -> DeadLetter:
    payload = fields.get(b"m", b"")
    return DeadLetter(digest(payload), fields.get(b"reason", b"").decode(errors="replace"), _job_id(payload))


def _job_id(payload: bytes) -> str:
    try:
        return str(rollout_pb2.RolloutJob.FromString(payload).job_id)
    except DecodeError:
        return ""


def processes_left(spec: RunSpec) -> list[str]:
    """Command lines of processes that carry the run's mark in their environment."""
    wanted = f"{MARK}={spec.mark}".encode()
    return [
        _read(folder / "cmdline").replace(b"\0", b" ").decode(errors="replace")
        for folder in _processes()
        if wanted in _read(folder / "environ")
    ]


def files_left(spec: RunSpec, undisturbed: RunSpec) -> list[str]:
    """Half-written files anywhere in the run's folder, and temporary files that the undisturbed run did not leave."""
    half = {path for pattern in HALF_WRITTEN for path in spec.out.rglob(pattern)}
    usual = {path.name for path in undisturbed.temporary.iterdir()}  # libraries keep a few small things there
    return sorted(
        str(path.relative_to(spec.out))
        for path in half | {path for path in spec.temporary.iterdir() if path.name not in usual}
    )


def _processes() -> list[Path]:
    return [folder for folder in Path("/proc").iterdir() if folder.name.isdecimal()]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # it has ended, or is another user's
        return b""
