"""Every invariant holds on the evidence of a good run, and is seen failing on that of a bad one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from chaos.driver import Record
from chaos.evidence import DeadLetter, Evidence, QueueLeft, RunFacts
from chaos.invariants import CHECKS, judge
from chaos.part import Exit
from chaos.report import as_json, as_markdown
from chaos.schedule import Kind

UPDATES, GROUPS = 4, 2
REPLACED = (
    "train/2/1 ('a') is given up for train/2/1/1 ('b'): dead_letter: dead letter: delivered 3 times without a result"
)


def make_metrics(**changed: Any) -> list[dict[str, Any]]:  # noqa: ANN401
    rows: list[dict[str, Any]] = [
        {"update": u, "lr": 0.1, "groups/used": 2.0, "loss": 0.5 * u, "timing/total": 1.0} for u in range(UPDATES)
    ]
    rows[2] |= changed
    return [*rows, {"update": UPDATES}]


def make_facts(**fields: Any) -> RunFacts:  # noqa: ANN401
    told: dict[str, Any] = {"status": 0, "metrics": make_metrics(), "base_digest": "base", "final_digest": "final"}
    return RunFacts(**(told | fields))


def make_record(kind: Kind = Kind.DISK_FULL, **fields: Any) -> Record:  # noqa: ANN401
    told: dict[str, Any] = {
        "index": 0,
        "kind": kind,
        "due": 1,
        "target": "t",
        "at_s": 1.0,
        "hit": True,
        "part_s": 0.5,
        "run_s": 1.0,
        "detail": "",
    }
    return Record(**(told | fields))


def make_queue(dead: tuple[DeadLetter, ...] = (), jobs: int = 0, pending: int = 0) -> QueueLeft:
    rubbish = DeadLetter("r", "not a RolloutJob", "")
    return QueueLeft({"jobs": jobs, "trajectories": 0}, {"jobs": 0, "trajectories": pending}, [rubbish, *dead])


GOOD = Evidence(
    updates=UPDATES,
    groups=GROUPS,
    calm=make_facts(),
    disturbed=make_facts(metrics=make_metrics(**{"timing/total": 9.0, "failures/weights_missing": 2.0})),
    queue=make_queue(),
    processes=[],
    files=[],
    exits=[
        Exit("trainer", -9, True, "", False),
        Exit("trainer", 1, False, "python -m trainer: ConnectionError: away", False),
    ],
    rubbish={"r": "malformed_job, fault 0"},
    records=[make_record(), make_record(Kind.MALFORMED_JOB, hit=False)],
)
BURIED = DeadLetter("d", "delivered 3 times without a result", "train/2/1")
FEWER_GROUPS = make_facts(metrics=make_metrics(**{"groups/used": 1.0}))
WITHOUT_LAST = [row for row in make_metrics() if row["update"] != UPDATES - 1]

BREACHES: list[tuple[str, Evidence]] = [
    ("run_finished", replace(GOOD, disturbed=make_facts(status=1))),
    ("run_finished", replace(GOOD, calm=make_facts(final_digest=None), disturbed=make_facts(final_digest=None))),
    ("faults_survived", replace(GOOD, records=[make_record(), make_record(Kind.OCR_KILL, part_s=None)])),
    ("faults_survived", replace(GOOD, records=[make_record(), make_record(Kind.OCR_KILL, at_s=None)])),
    ("faults_survived", replace(GOOD, records=[make_record(), make_record(Kind.OCR_KILL, run_s=None)])),
    ("aims_met", replace(GOOD, records=[make_record(hit=False)])),
    ("updates_once", replace(GOOD, disturbed=make_facts(metrics=[*make_metrics(), {"update": UPDATES}]))),
    ("groups_exact", replace(GOOD, calm=FEWER_GROUPS, disturbed=FEWER_GROUPS)),
    ("same_numbers", replace(GOOD, disturbed=make_facts(metrics=make_metrics(loss=0.6)))),
    ("same_weights", replace(GOOD, disturbed=make_facts(final_digest="other"))),
    ("run_was_real", replace(GOOD, calm=make_facts(base_digest="final"))),
    ("no_process_left", replace(GOOD, processes=["python -m varl.services.ocr"])),
    ("no_file_left", replace(GOOD, files=["weights/v1.part"])),
    ("streams_empty", replace(GOOD, queue=make_queue(jobs=1))),
    ("streams_empty", replace(GOOD, queue=make_queue(pending=1))),
    ("dead_letters_explained", replace(GOOD, queue=make_queue((DeadLetter("r", "again", ""),)))),
    ("dead_letters_explained", replace(GOOD, queue=make_queue((BURIED,)))),
    ("dead_letters_explained", replace(GOOD, rubbish={"r": "one", "s": "another"})),
    ("exits_typed", replace(GOOD, exits=[Exit("trainer", 1, False, "ValueError", True)])),
    ("exits_typed", replace(GOOD, exits=[Exit("ocr", -11, False, "", False)])),
]


def failing(evidence: Evidence) -> set[str]:
    return {verdict.name for verdict in judge(evidence) if not verdict.holds}


def test_all_hold_on_a_good_run_and_each_has_a_breach_here() -> None:
    assert failing(GOOD) == set()
    assert {name for name, _ in BREACHES} == {check.__name__ for check in CHECKS}


@pytest.mark.parametrize(("name", "evidence"), BREACHES)
def test_a_breach_is_seen_by_its_invariant_alone(name: str, evidence: Evidence) -> None:
    assert failing(evidence) == {name}


def test_a_missing_update_is_seen() -> None:
    assert failing(replace(GOOD, disturbed=make_facts(metrics=WITHOUT_LAST))) == {"updates_once", "same_numbers"}


def test_too_few_steps_make_equal_weights_worthless() -> None:
    idle = [{name: value for name, value in row.items() if name != "lr"} for row in make_metrics()]
    assert failing(replace(GOOD, calm=make_facts(metrics=idle), disturbed=make_facts(metrics=idle))) == {"run_was_real"}


def test_a_replaced_group_excuses_other_weights_if_the_log_names_it() -> None:
    metrics = make_metrics(loss=0.7, **{"groups/replaced": 1.0})
    named = replace(
        GOOD, disturbed=make_facts(metrics=metrics, final_digest="other", named=[REPLACED]), queue=make_queue((BURIED,))
    )
    assert failing(named) == set()
    early = make_facts(metrics=[{**metrics[0], "loss": 9.0}, *metrics[1:]], final_digest="other", named=[REPLACED])
    assert failing(replace(named, disturbed=early)) == {"same_numbers"}  # before the replacement nothing may differ
    unnamed = replace(named, disturbed=make_facts(metrics=metrics, final_digest="other"))
    assert failing(unnamed) == {"groups_exact", "same_numbers", "same_weights", "dead_letters_explained"}


def test_the_result_counts_by_kind_and_shows_what_was_lost() -> None:
    records = [make_record(), make_record(part_s=None), make_record(Kind.REDIS_KILL, part_s=2.0, run_s=3.0)]
    facts = {
        "command": "python -m chaos",
        "machine": "here",
        "updates": UPDATES,
        "undisturbed_s": 1.0,
        "disturbed_s": 2.0,
    }
    evidence = replace(GOOD, records=records)
    result = as_json(facts, evidence, judge(evidence))
    assert not result["held"] and not result["invariants"]["faults_survived"]["holds"]
    assert [(row["kind"], row["tried"], row["survived"], row["lost"]) for row in result["by_kind"]] == [
        ("redis_kill", 1, 1, 0),
        ("disk_full", 2, 1, 1),
    ]
    text = as_markdown(result)
    assert (
        "| all | 3 | 2 | **1** |" in text and "| faults_survived | **NO** |" in text and "2 s; 2 s | 3 s; 3 s" in text
    )
