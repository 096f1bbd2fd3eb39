"""The result of a run as JSON, and as tables for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from statistics import median
from typing import Any

from chaos.driver import Record
from chaos.evidence import Evidence
from chaos.invariants import Verdict
from chaos.schedule import MEANING, Kind
from varl.launch.machine import describe_machine


def as_json(facts: dict[str, Any], evidence: Evidence, verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Everything that was done and seen. facts: command, machine and the like."""
    return {
        **facts,
        "held": all(verdict.holds for verdict in verdicts),
        "invariants": {verdict.name: {"holds": verdict.holds, "seen": verdict.seen} for verdict in verdicts},
        "by_kind": by_kind(evidence.records),
        "faults": [asdict(record) | {"survived": record.survived} for record in evidence.records],
        "exits": [asdict(end) for end in evidence.exits],
        "dead_letters": [asdict(letter) for letter in evidence.queue.dead],
    }


def by_kind(records: Iterable[Record]) -> list[dict[str, Any]]:
    """A row for each kind that was planned.

    How often it was tried, survived and lost, and seconds until part and run worked again.
    """
    records = list(records)
    rows = []
    for kind in Kind:
        planned = [record for record in records if record.kind is kind]
        survived = [record for record in planned if record.survived]
        if planned:
            row = {
                "kind": kind.value,
                "tried": len(planned),
                "survived": len(survived),
                "lost": len(planned) - len(survived),
            }
            rows.append(
                row
                | {"hit": sum(record.hit for record in planned), "part_s": _times(r.part_s for r in survived)}
                | {"run_s": _times(r.run_s for r in survived)}
            )
    return rows


def _times(values: Iterable[float | None]) -> dict[str, float]:
    known = [value for value in values if value is not None]
    return {"median": round(median(known), 2), "longest": max(known)} if known else {}


def as_markdown(result: dict[str, Any]) -> str:
    """Tables of faults and of invariants, with the command and the machine above them."""
    rows = result["by_kind"]
    total = {key: sum(row[key] for row in rows) for key in ("tried", "survived", "lost")}
    lines = [
        f"`{result['command']}` on {result['machine']}: {total['tried']} faults over {result['updates']} updates in "
        f"{result['disturbed_s']:.0f} s (undisturbed {result['undisturbed_s']:.0f} s).",
        "",
        "| fault | tried | survived | lost | part works again after, median; longest | run goes on after |",
        "|---|---|---|---|---|---|",
        *(_row(row) for row in rows),
        f"| all | {total['tried']} | {total['survived']} | **{total['lost']}** | | |",
        "",
        "| invariant | holds | seen |",
        "|---|---|---|",
        *(
            f"| {name} | {'yes' if found['holds'] else '**NO**'} | {_cell(found['seen'])} |"
            for name, found in result["invariants"].items()
        ),
    ]
    return "\n".join(lines) + "\n"


def machine_words() -> str:
    """This machine, as tables name it."""
    machine = describe_machine("cpu")
    return f"{machine.cores} cores of {machine.cpu}, {machine.memory_gib} GiB"


def _row(row: dict[str, Any]) -> str:
    times = [
        f"{seconds['median']:g} s; {seconds['longest']:g} s" if seconds else "never"
        for seconds in (row["part_s"], row["run_s"])
    ]
    return (
        f"| {MEANING[Kind(row['kind'])]} | {row['tried']} | {row['survived']} | "
        f"{row['lost']} | {times[0]} | {times[1]} |"
    )


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
