"""Which faults strike when, as a pure function of the seed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice, repeat

QUIET_AT_THE_END = (
    3  # updates without a fault of their own, so that what the last fault left is processed before the run ends
)


class Kind(StrEnum):
    """What can be done to a run."""

    ROLLOUT_KILL = "rollout_kill"
    ROLLOUT_STOP = "rollout_stop"
    OCR_KILL = "ocr_kill"
    OCR_RESET = "ocr_reset"
    OCR_STALL = "ocr_stall"
    TRAINER_KILL_WAITING = "trainer_kill_waiting"
    TRAINER_KILL_UPDATING = "trainer_kill_updating"
    TRAINER_KILL_CHECKPOINT = "trainer_kill_checkpoint"
    TRAINER_KILL_UNACKNOWLEDGED = "trainer_kill_unacknowledged"
    TRAINER_STOP = "trainer_stop"
    TRAINER_FOREIGN = "trainer_foreign"
    REDIS_PAUSE = "redis_pause"
    REDIS_STOP = "redis_stop"
    REDIS_KILL = "redis_kill"
    REDIS_RESTART = "redis_restart"
    REDIS_FULL = "redis_full"
    REDIS_RESET = "redis_reset"
    REDIS_STALL = "redis_stall"
    REDIS_CUT = "redis_cut"
    REDIS_FAILOVER = "redis_failover"
    REDIS_READONLY = "redis_readonly"
    REDIS_NOREPLICAS = "redis_noreplicas"
    DISK_FULL = "disk_full"
    WEIGHTS_CORRUPT = "weights_corrupt"
    POISON_PROMPT = "poison_prompt"
    MALFORMED_TRAJECTORY = "malformed_trajectory"
    MALFORMED_JOB = "malformed_job"
    DEADLY_JOB = "deadly_job"


# After these every group is what it would have been, so that the numbers are those of the undisturbed run.
USUAL = tuple(kind for kind in Kind if kind is not Kind.DEADLY_JOB)


MEANING = {
    Kind.ROLLOUT_KILL: "SIGKILL of a rollout worker",
    Kind.ROLLOUT_STOP: "SIGSTOP of a rollout worker for longer than its heartbeat, then SIGCONT",
    Kind.OCR_KILL: "SIGKILL of the OCR service",
    Kind.OCR_RESET: "connections to the OCR service reset",
    Kind.OCR_STALL: "connections to the OCR service stalled",
    Kind.TRAINER_KILL_WAITING: "SIGKILL of the trainer while it waits for groups",
    Kind.TRAINER_KILL_UPDATING: "SIGKILL of the trainer during an update",
    Kind.TRAINER_KILL_CHECKPOINT: "SIGKILL of the trainer while it writes a checkpoint",
    Kind.TRAINER_KILL_UNACKNOWLEDGED: (
        "SIGKILL of the trainer after a checkpoint, before it acknowledges the groups in it"
    ),
    Kind.TRAINER_STOP: "SIGTERM of the trainer, which saves a checkpoint",
    Kind.TRAINER_FOREIGN: "a second trainer on the same run, in its directory or in another one",
    Kind.REDIS_PAUSE: "Redis paused (CLIENT PAUSE)",
    Kind.REDIS_STOP: "Redis paused (SIGSTOP, SIGCONT)",
    Kind.REDIS_KILL: "SIGKILL of Redis, started again on the same append-only file",
    Kind.REDIS_RESTART: "Redis restarted (SIGTERM)",
    Kind.REDIS_FULL: "Redis out of memory (maxmemory below what is used)",
    Kind.REDIS_RESET: "connections to Redis reset",
    Kind.REDIS_STALL: "connections to Redis stalled",
    Kind.REDIS_CUT: "connections to Redis refused",
    Kind.REDIS_FAILOVER: "failover to the replica; the address moves there later, open connections stay",
    Kind.REDIS_READONLY: "Redis a replica of nobody for a while (READONLY)",
    Kind.REDIS_NOREPLICAS: "Redis short of replicas (min-replicas-to-write)",
    Kind.DISK_FULL: "no room for a checkpoint (RLIMIT_FSIZE of the trainer)",
    Kind.WEIGHTS_CORRUPT: "bytes of a published weight file flipped",
    Kind.POISON_PROMPT: "a job from outside whose prompt no service takes",
    Kind.MALFORMED_TRAJECTORY: "rubbish in the stream of trajectories",
    Kind.MALFORMED_JOB: "rubbish in the stream of jobs",
    Kind.DEADLY_JOB: "SIGKILL of every worker that takes one job, until the job is given up for another prompt",
}


@dataclass(frozen=True)
class Fault:
    """One planned fault.

    due: update that the trainer must have begun. worker: which rollout worker, where the kind strikes one. delay_s:
    from its trigger to the strike. lasts_s: how long what is stopped stays stopped.
    """

    index: int
    kind: Kind
    due: int
    worker: int
    delay_s: float
    lasts_s: float


def schedule(seed: int, count: int, updates: int, kinds: Sequence[Kind] = USUAL, workers: int = 2) -> list[Fault]:
    """``count`` faults over a run of ``updates``, every kind as often as any other but for one.

    The same for the same arguments.
    Raises ValueError where the run is too short to end in quiet, or there is no kind.
    """
    if updates <= QUIET_AT_THE_END or not kinds:
        raise ValueError(f"faults need a kind and more than {QUIET_AT_THE_END} updates, got {len(kinds)} and {updates}")
    rng, busy = random.Random(seed), updates - QUIET_AT_THE_END
    rounds = (kind for shuffled in repeat(kinds) for kind in rng.sample(shuffled, len(shuffled)))
    return [
        Fault(
            index,
            kind,
            index * busy // count,
            rng.randrange(workers),
            round(rng.uniform(0, 0.4), 3),
            round(rng.uniform(1.5, 3), 3),
        )
        for index, kind in enumerate(islice(rounds, count))
    ]
