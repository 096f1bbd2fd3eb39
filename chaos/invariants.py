"""What must hold at the end of a disturbed run, as pure functions of the evidence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from chaos.evidence import Evidence, RunFacts
from chaos.schedule import Kind

# Metrics that tell the time, and counts of what the faults did: these may differ from the undisturbed run's.
FREE = (
    "timing/",
    "failures/",
    "groups/unexpected",
    "groups/requeued",
    "checkpoint/failures",
    "disk/refusals",
    "trajectories/undecodable",
)
AIMED = (
    Kind.ROLLOUT_STOP,
    Kind.TRAINER_KILL_WAITING,
    Kind.TRAINER_KILL_UPDATING,
    Kind.TRAINER_KILL_CHECKPOINT,
    Kind.TRAINER_KILL_UNACKNOWLEDGED,
    Kind.TRAINER_STOP,
    Kind.TRAINER_FOREIGN,
    Kind.DISK_FULL,
    Kind.WEIGHTS_CORRUPT,
    Kind.DEADLY_JOB,
)


@dataclass(frozen=True)
class Verdict:
    """Whether an invariant holds, and what was seen."""

    name: str
    holds: bool
    seen: str


def judge(evidence: Evidence) -> list[Verdict]:
    """The verdict of each invariant."""
    return [Verdict(check.__name__, *check(evidence)) for check in CHECKS]


def run_finished(evidence: Evidence) -> tuple[bool, str]:
    """Both runs ended with status 0 and left final weights."""
    states = {name: (facts.status, facts.final_digest is not None) for name, facts in _runs(evidence).items()}
    return all(state == (0, True) for state in states.values()), f"(exit status, final weights): {states}"


def faults_survived(evidence: Evidence) -> tuple[bool, str]:
    """Each planned fault was tried, its part worked again, and the run went on."""
    lost = [
        f"{record.index} {record.kind.value}: {record.detail}" for record in evidence.records if not record.survived
    ]
    return not lost, f"{len(evidence.records) - len(lost)} of {len(evidence.records)} survived; lost: {lost}"


def aims_met(evidence: Evidence) -> tuple[bool, str]:
    """Of each kind that is aimed at a moment, one met it at least."""
    tried = [record for record in evidence.records if record.kind in AIMED]
    hits = Counter(record.kind.value for record in tried if record.hit)
    missed = sorted({record.kind.value for record in tried} - set(hits))
    return not missed, f"met: {dict(sorted(hits.items()))}; never: {missed}"


def updates_once(evidence: Evidence) -> tuple[bool, str]:
    """The metrics have each update once, and the final look at the weights."""
    numbers = [row["update"] for row in evidence.disturbed.metrics]
    return numbers == list(range(evidence.updates + 1)), f"updates in metrics.jsonl: {_ranges(numbers)}"


def groups_exact(evidence: Evidence) -> tuple[bool, str]:
    """Each update used as many groups as were asked for.

    For each that is missing or another one's, the log names it.
    """
    rows = [row for row in evidence.disturbed.metrics if row["update"] < evidence.updates]
    lacking = {row["update"]: row.get("groups/used") for row in rows if row.get("groups/used") != evidence.groups}
    changed = sum(row.get("groups/replaced", 0) + row.get("groups/dropped", 0) for row in rows)
    explained = len(evidence.disturbed.named) >= changed and all(
        _row_drops(row) for row in rows if row["update"] in lacking
    )
    return (
        explained,
        f"{len(rows)} updates of {evidence.groups} groups, but for {lacking}; replaced or dropped: {changed:g}",
    )


def same_numbers(evidence: Evidence) -> tuple[bool, str]:
    """Every metric of every update equals that of the undisturbed run.

    This holds up to the first update in which a group was replaced or dropped.
    """
    others = {row["update"]: row for row in evidence.disturbed.metrics}
    rows = [(row["update"], _differences(row, others.get(row["update"], {}))) for row in evidence.calm.metrics]
    differing = [f"update {number}: {', '.join(names)}" for number, names in rows if names]
    unexcused = [number for number, names in rows if names and not _excused(evidence, number)]
    return (
        not unexcused,
        f"rows that differ: {differing or 'none'}, without an excuse: {unexcused or 'none'}{_named(evidence)}",
    )


def same_weights(evidence: Evidence) -> tuple[bool, str]:
    """The final weights equal those of the undisturbed run, bit for bit.

    They may differ only if the log names a group that was replaced or dropped.
    """
    one, other = evidence.calm.final_digest, evidence.disturbed.final_digest
    return one == other or _excused(
        evidence, evidence.updates
    ), f"SHA-256 {_short(one)} and {_short(other)}{_named(evidence)}"


def run_was_real(evidence: Evidence) -> tuple[bool, str]:
    """The weights moved, in most updates: else that they are equal says nothing."""
    steps = sum("lr" in row for row in evidence.calm.metrics)
    moved = evidence.calm.final_digest != evidence.calm.base_digest
    return (
        moved and 2 * steps > evidence.updates,
        f"{steps} of {evidence.updates} updates took a step; weights moved: {moved}",
    )


def no_process_left(evidence: Evidence) -> tuple[bool, str]:
    """No process of the run is left."""
    return not evidence.processes, f"left: {list(evidence.processes)}"


def no_file_left(evidence: Evidence) -> tuple[bool, str]:
    """No half-written and no temporary file is left."""
    return not evidence.files, f"left: {list(evidence.files)}"


def streams_empty(evidence: Evidence) -> tuple[bool, str]:
    """No entry and no pending mark is left in the streams of jobs and trajectories."""
    left = [*evidence.queue.entries.values(), *evidence.queue.pending.values()]
    return not any(left), f"entries {dict(evidence.queue.entries)}, pending {dict(evidence.queue.pending)}"


def dead_letters_explained(evidence: Evidence) -> tuple[bool, str]:
    """All rubbish is on the dead-letter stream, once, and whatever else is there was named in the trainer's log."""
    found = Counter(letter.digest for letter in evidence.queue.dead)
    wrong = [f"{found[key]} times: {what}" for key, what in evidence.rubbish.items() if found[key] != 1]
    others = [letter for letter in evidence.queue.dead if letter.digest not in evidence.rubbish]
    unnamed = [
        f"{letter.job_id}: {letter.reason}"
        for letter in others
        if not letter.job_id or not any(letter.job_id in line for line in evidence.disturbed.named)
    ]
    return (
        not wrong and not unnamed,
        f"{len(evidence.rubbish)} injected, {len(others)} others; wrong: {wrong}, unexplained: {unnamed}",
    )


def exits_typed(evidence: Evidence) -> tuple[bool, str]:
    """A process that ended without being told to had a message to say why, and no traceback."""
    own = [end for end in evidence.exits if not end.expected and end.status != 0]
    bad = [f"{end.part} ({end.status}): {end.last_words}" for end in own if end.traceback or end.status < 0]
    others = [f"{end.part} ({end.status}): {end.last_words}" for end in own if not (end.traceback or end.status < 0)]
    return not bad, f"with a traceback or a signal: {bad}; with a message: {others}"


CHECKS: tuple[Callable[[Evidence], tuple[bool, str]], ...] = (
    run_finished,
    faults_survived,
    aims_met,
    updates_once,
    groups_exact,
    same_numbers,
    same_weights,
    run_was_real,
    no_process_left,
    no_file_left,
    streams_empty,
    dead_letters_explained,
    exits_typed,
)


def _runs(evidence: Evidence) -> dict[str, RunFacts]:
    return {"undisturbed": evidence.calm, "disturbed": evidence.disturbed}


def _excused(evidence: Evidence, update: int) -> bool:
    """Whether a group was replaced or dropped by this update, and the log names one."""
    changed = [
        row["update"] for row in evidence.disturbed.metrics if row.get("groups/replaced") or row.get("groups/dropped")
    ]
    return bool(evidence.disturbed.named) and any(number <= update for number in changed)


def _row_drops(row: Mapping[str, Any]) -> bool:
    return bool(row.get("groups/dropped"))


def _differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    names = {name for name in {*one, *other} if not name.startswith(FREE)}
    return sorted(name for name in names if one.get(name) != other.get(name))


def _named(evidence: Evidence) -> str:
    return f"; the log names {list(evidence.disturbed.named)}" if evidence.disturbed.named else ""


def _short(digest: str | None) -> str:
    return f"{digest[:16]}…" if digest else "none"


def _ranges(numbers: list[int]) -> str:
    return f"{len(numbers)} rows from {min(numbers)} to {max(numbers)}" if numbers else "none"
