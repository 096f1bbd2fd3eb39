"""Jobs out, trajectories back, over two Redis streams of one run; needs nothing newer than Redis 6.2.

At least once: a job stays pending until its trajectory is published (both in one script), and a trajectory stays
pending until the trainer says that a checkpoint holds the update which used it. Publishing counts only while the job is
still pending, so a job that two workers finished, or that a purge withdrew, is published once or not at all.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import islice
from typing import Any, TypeVar, cast

import redis
from google.protobuf.message import Message

from varl.trajectories.codec import decode_job, decode_trajectory, encode_job, encode_trajectory, job_of
from varl.trajectories.deliveries import Delivery, Key, TrajectoryDelivery, job_key, split_duplicates
from varl.trajectories.job_checks import run_id_problem
from varl.trajectories.problems import CodecError, Problem, Reason
from varl.trajectories.stream import Entry, GroupStream, connect
from varl.v1 import rollout_pb2, trajectory_pb2

__all__ = ["RunQueue", "connect"]

T = TypeVar("T", bound=Message)
DEAD_LETTERS = 10_000  # kept of a run, about
LOOK_S = 1.0  # between looks for entries that a count alone cannot tell of
FEW = 4  # trajectories a round trip in scans: one may have megabytes, and replies count as Redis's memory
ABANDONED_MS = 24 * 3600 * 1000  # longer than any worker lets a job lie idle

# KEYS: stream that the entry is on, trajectories, dead letters.
# ARGV: consumer group, entry id, trajectory to add or "", reason for a dead letter or "", its payload, dead letters
# kept. XACK answers 0 where another consumer settled the entry first: then nothing is added.
SETTLE = """
if redis.call('XACK', KEYS[1], ARGV[1], ARGV[2]) == 0 then return 0 end
redis.call('XDEL', KEYS[1], ARGV[2])
if ARGV[3] ~= '' then redis.call('XADD', KEYS[2], '*', 'm', ARGV[3]) end
if ARGV[4] ~= '' then
  redis.call('XADD', KEYS[3], 'MAXLEN', '~', ARGV[6], '*', 'm', ARGV[5], 'reason', ARGV[4], 'source', KEYS[1])
end
return 1
"""


class RunQueue:
    """The queue of one run, for its trainer (one at a time) or for one of its workers.

    The worker's methods may be called from several threads; the trainer's from one. ``client`` gives bytes (no
    decode_responses; see ``connect``); ``consumer`` is unique among all that work on the run; a job handed out more
    than ``max_deliveries`` times goes to the dead-letter stream. The trainer's methods call ``check_lease`` before they
    add, take or remove anything, and raise what it raises.
    """

    def __init__(
        self,
        client: redis.Redis,
        run_id: str,
        consumer: str,
        max_deliveries: int = 3,
        check_lease: Callable[[], None] = lambda: None,
    ) -> None:
        problem = run_id_problem(run_id)
        if problem or not consumer or max_deliveries < 1:
            given = f"got {consumer!r}, {max_deliveries}"
            raise ValueError(problem or f"consumer must not be empty, max_deliveries >= 1: {given}")
        self._run_id, self._consumer, self.max_deliveries = run_id, consumer, max_deliveries
        self._check_lease = check_lease
        self._jobs = GroupStream(client, f"varl:{run_id}:jobs", "workers", consumer)
        self._results = GroupStream(client, f"varl:{run_id}:trajectories", "trainer", consumer, FEW)
        self._client, self._dead_key = client, f"varl:{run_id}:dead"
        self._settle_script = client.register_script(SETTLE)
        self._held: dict[
            str, tuple[Key, int]
        ] = {}  # entry id -> key and weight version of what the trainer has not acknowledged
        self._looked = 0.0  # when the ids of pending trajectories were compared with those
        self._ahead: dict[str, rollout_pb2.RolloutJob] = {}  # asked for before their update has begun, by job id
        self._parked: list[TrajectoryDelivery] = []  # their results meanwhile
        self.undecodable = Counter[Reason]()  # trajectories that this trainer dead-lettered

    # Trainer side.

    def submit(self, jobs: Iterable[rollout_pb2.RolloutJob]) -> None:
        """Queue jobs, all or none. Raises CodecError (a bad field) or ValueError (a job of another run)."""
        payloads = [self._payload_of(job) for job in jobs]
        self._check_lease()
        self._jobs.add(payloads)

    def submit_ahead(self, jobs: Sequence[rollout_pb2.RolloutJob]) -> None:
        """Queue jobs whose trajectories are wanted later: ``park`` keeps them until ``take_ahead`` asks for them."""
        self.submit(jobs)
        self._ahead |= {job.job_id: job for job in jobs}

    def park(self, delivery: TrajectoryDelivery) -> bool:
        """Keep a trajectory for the update that it was asked ahead for; False where nobody has asked."""
        wanted = job_of(delivery.message).job_id in self._ahead
        if wanted:
            self._parked.append(delivery)
        return wanted

    def take_ahead(self, jobs: Iterable[rollout_pb2.RolloutJob]) -> tuple[set[str], list[TrajectoryDelivery]]:
        """Return the ids of those jobs that were submitted ahead, and their results.

        From now on they are ordinary jobs.
        """
        ids = {job.job_id for job in jobs if self._ahead.pop(job.job_id, None) is not None}
        arrived = [delivery for delivery in self._parked if job_of(delivery.message).job_id in ids]
        self._parked = [delivery for delivery in self._parked if job_of(delivery.message).job_id not in ids]
        return ids, arrived

    def lost(self, jobs: Iterable[rollout_pb2.RolloutJob]) -> list[rollout_pb2.RolloutJob]:
        """Return those of the jobs that are neither queued nor answered.

        A Redis that was killed may have lost its last second.
        """
        found = {key for key, _ in self._held.values()}  # read before: a run's worth of large messages
        for job in self._jobs.scan():
            found |= _keys(_decoded(job, decode_job, lambda job: job))
        for trajectory in self._results.scan_others(self._held):
            found |= _keys(_decoded(trajectory, decode_trajectory, job_of))
        return [job for job in jobs if job_key(job) not in found]

    def bury(self, job: rollout_pb2.RolloutJob, reason: str) -> None:
        """Put a job that the trainer has given up on the dead-letter stream."""
        self._check_lease()
        fields = {"m": job.SerializeToString(deterministic=True), "reason": reason, "source": self._results.key}
        self._client.xadd(self._dead_key, cast(Any, fields), maxlen=DEAD_LETTERS)

    def receive(self, count: int, block_ms: int) -> list[TrajectoryDelivery]:
        """Return up to ``count`` new trajectories, waiting up to ``block_ms`` for the first (0: no wait).

        A repeat of one still unacknowledged is dropped. One that cannot be decoded goes to the dead-letter stream and
        is counted by its reason in ``undecodable``. Where nothing is new, entries are handed out again whose delivery
        got lost on the way (a broken connection) or that an earlier trainer left.
        """
        self._check_lease()
        entries = self._results.read_new(count, block_ms)
        if entries or not self._may_miss_some():
            return self._accept(entries)
        return self._accept(islice(self._results.claim(0, skip=self._held), count))

    def _may_miss_some(self) -> bool:
        """Whether entries may be pending that this trainer does not hold.

        By their number and, since Redis may have lost some that are held, now and then without it.
        """
        pending, now = self._results.pending(), time.monotonic()
        if pending <= len(self._held) and (not pending or now - self._looked < LOOK_S):
            return False
        self._looked = now
        return True

    def acknowledge(self, entry_ids: Sequence[str]) -> None:
        """Forget trajectories for good. Call only once a checkpoint holds the update that used them."""
        self._check_lease()
        self._results.drop(entry_ids)
        for entry_id in entry_ids:
            self._held.pop(entry_id, None)

    def recover(self) -> list[TrajectoryDelivery]:
        """Return what was delivered to an earlier trainer (or lost on the way to this one) and never acknowledged."""
        self._check_lease()
        return self._accept(self._results.claim(0, skip=self._held))

    def purge(self, from_version: int) -> int:
        """Drop jobs and trajectories of ``weight_version`` >= ``from_version``; return how many.

        Work in hand on them is not published.
        """
        self._check_lease()
        jobs = [
            e.entry_id for e in self._jobs.scan() if _is_from(_decoded(e, decode_job, lambda job: job), from_version)
        ]
        results = [
            e.entry_id for e in self._results.scan() if _is_from(_decoded(e, decode_trajectory, job_of), from_version)
        ]
        self._held = {entry_id: held for entry_id, held in self._held.items() if held[1] < from_version}
        self._ahead, self._parked = {}, []
        return self._jobs.drop(jobs) + self._results.drop(results)

    def position(self) -> dict[str, Any]:
        """Return where the queue stands: the newest entry that each stream has ever had."""
        return {"jobs": self._jobs.position(), "trajectories": self._results.position()}

    def backlog(self) -> int:
        """Return the number of jobs not yet taken."""
        return self._jobs.untaken()

    # Worker side.

    def take_job(
        self, block_ms: int, min_idle_ms: int, skip: Collection[str] = ()
    ) -> Delivery[rollout_pb2.RolloutJob] | None:
        """Return a job that its worker left idle for ``min_idle_ms``, else a new one within ``block_ms``, else None.

        Idle jobs in ``skip`` are passed over. A job that was delivered too often or cannot be decoded goes to the
        dead-letter stream, and the trainer is told by a GroupFailure wherever the job can still be named.
        """
        for entry in self._jobs.claim(min_idle_ms, skip):
            delivery = self._open(entry)
            if delivery is not None:
                return delivery
        new = self._jobs.read_new(1, block_ms)
        return self._open(new[0]) if new else None

    def heartbeat(self, entry_id: str) -> None:
        """Say that the job is still in hand: its idle time starts again, its delivery count stays."""
        self._jobs.touch(entry_id)

    def release(self, entry_id: str, idle_ms: int) -> None:
        """Hand a job back unfinished: whoever takes jobs that are idle for ``idle_ms`` may have it at once."""
        self._jobs.release(entry_id, idle_ms)

    def release_all(self) -> int:
        """Hand back every job that a worker holds, for when none of them is left; returns how many there were."""
        return self._jobs.release_all(ABANDONED_MS)

    def publish(self, delivery: Delivery[rollout_pb2.RolloutJob], trajectory: trajectory_pb2.Trajectory) -> bool:
        """Hand in the trajectory of a job and remove the job, in one step.

        Returns False, and adds nothing, where the job is no longer pending: another worker was first, or it was purged.
        Raises CodecError on an invalid trajectory.
        """
        return self._settle(self._jobs, delivery.entry_id, trajectory=encode_trajectory(trajectory))

    def leave(self) -> None:
        """Take this worker's name off the run, unless it still holds jobs."""
        self._jobs.leave()

    # Inside.

    def _payload_of(self, job: rollout_pb2.RolloutJob) -> bytes:
        if job.run_id != self._run_id:
            raise ValueError(f"run_id must be {self._run_id!r}, got {job.run_id!r}")
        return encode_job(job)

    def _settle(
        self, stream: GroupStream, entry_id: str, trajectory: bytes = b"", reason: str = "", payload: bytes = b""
    ) -> bool:
        keys = [stream.key, self._results.key, self._dead_key]
        return bool(
            self._settle_script(keys=keys, args=(stream.group, entry_id, trajectory, reason, payload, DEAD_LETTERS))
        )

    def _accept(self, entries: Iterable[Entry]) -> list[TrajectoryDelivery]:
        decoded = [delivery for entry in entries if (delivery := self._decode(entry)) is not None]
        fresh, repeats = split_duplicates(decoded, (key for key, _ in self._held.values()))
        self._results.drop([repeat.entry_id for repeat in repeats])
        jobs = {delivery.entry_id: job_of(delivery.message) for delivery in fresh}
        self._held.update({entry_id: (job_key(job), job.weight_version) for entry_id, job in jobs.items()})
        return fresh

    def _decode(self, entry: Entry) -> TrajectoryDelivery | None:
        try:
            trajectory = decode_trajectory(entry.payload)
            self._check_run(job_of(trajectory))
        except CodecError as error:
            self.undecodable[error.reason] += 1
            self._settle(self._results, entry.entry_id, reason=f"{error.reason}: {error.detail}", payload=entry.payload)
            return None
        return Delivery(entry.entry_id, trajectory, entry.deliveries)

    def _check_run(self, job: rollout_pb2.RolloutJob) -> None:
        if job.run_id != self._run_id:
            raise CodecError(Problem(Reason.JOB, f"run_id must be {self._run_id!r}, got {job.run_id!r}"))

    def _open(self, entry: Entry) -> Delivery[rollout_pb2.RolloutJob] | None:
        try:
            job = decode_job(entry.payload)
            self._check_run(job)
        except CodecError as error:
            self._bury(entry, f"{error.reason}: {error.detail}", cast(rollout_pb2.RolloutJob | None, error.message))
            return None
        if entry.deliveries <= self.max_deliveries:
            return Delivery(entry.entry_id, job, entry.deliveries)
        self._bury(entry, f"delivered {entry.deliveries - 1} times without a result", job)
        return None

    def _bury(self, entry: Entry, reason: str, job: rollout_pb2.RolloutJob | None) -> None:
        told = b""
        if job is not None:
            code, detail = trajectory_pb2.FAILURE_CODE_DEAD_LETTER, f"dead letter: {reason}"
            failure = trajectory_pb2.GroupFailure(job=job, code=code, detail=detail, worker=self._consumer)
            told = encode_trajectory(trajectory_pb2.Trajectory(failure=failure))
        self._settle(self._jobs, entry.entry_id, trajectory=told, reason=reason, payload=entry.payload)


def _decoded(
    entry: Entry, decode: Callable[[bytes], T], to_job: Callable[[T], rollout_pb2.RolloutJob]
) -> rollout_pb2.RolloutJob | None:
    try:
        return to_job(decode(entry.payload))
    except CodecError:
        return None  # left for its reader, who dead-letters it


def _keys(job: rollout_pb2.RolloutJob | None) -> set[Key]:
    return set() if job is None else {job_key(job)}


def _is_from(job: rollout_pb2.RolloutJob | None, version: int) -> bool:
    return job is not None and job.weight_version >= version
