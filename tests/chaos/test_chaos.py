"""The shortened form of ``make chaos``.

Real processes under eight faults of different kinds, and a run that loses a group.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from chaos.rig import MAX_DELIVERIES
from tests.support.paths import PYTHONPATH, ROOT
from tests.support.trainer_rig import read_metrics

KINDS = (
    "rollout_kill",
    "trainer_kill_checkpoint",
    "redis_kill",
    "redis_reset",
    "ocr_reset",
    "malformed_trajectory",
    "malformed_job",
    "poison_prompt",
)


def chaos(out: Path, updates: int, kinds: tuple[str, ...]) -> tuple[int, dict[str, Any]]:
    """Exit status and result of a run under one fault of each kind."""
    flags = ["--faults", str(len(kinds)), "--updates", str(updates), "--kinds", ",".join(kinds), "--out", str(out)]
    environment = os.environ | {"PYTHONPATH": PYTHONPATH}
    done = subprocess.run(
        [sys.executable, "-m", "chaos", *flags], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1400
    )
    assert (out / "chaos.json").exists(), f"{done.stdout[-3000:]}{done.stderr[-3000:]}"
    result: dict[str, Any] = json.loads((out / "chaos.json").read_text())
    return done.returncode, result


def broken(result: dict[str, Any]) -> dict[str, str]:
    """What was seen by the invariants that do not hold."""
    return {name: found["seen"] for name, found in result["invariants"].items() if not found["holds"]}


@pytest.mark.timeout(1500)  # a minute and a half on a quiet machine; machines of CI are slow and shared
def test_a_run_under_faults_ends_as_one_in_peace(tmp_path: Path) -> None:
    status, result = chaos(tmp_path, 14, KINDS)
    assert not broken(result).keys() - {"aims_met"}, broken(
        result
    )  # a machine that is busy enough may let the phase of a kill go by
    assert status == bool(broken(result))
    assert sorted(fault["kind"] for fault in result["faults"]) == sorted(KINDS)
    assert all(fault["survived"] for fault in result["faults"])


@pytest.mark.timeout(1500)
def test_a_job_that_kills_its_workers_is_replaced_and_the_verdicts_excuse_that_alone(tmp_path: Path) -> None:
    status, result = chaos(tmp_path, 6, ("deadly_job",))
    assert (status, broken(result)) == (0, {})
    (fault,) = result["faults"]
    letters = [letter for letter in result["dead_letters"] if letter["job_id"] == fault["target"]]
    # Once more where a busy machine lets a heartbeat come too late.
    reasons = [f"delivered {times} times without a result" for times in (MAX_DELIVERIES, MAX_DELIVERIES + 1)]
    (letter,) = letters
    assert letter["reason"] in reasons
    rows = read_metrics(tmp_path / "chaos" / "runs" / "chaos")
    replaced = [row["update"] for row in rows if row.get("groups/replaced")]
    assert replaced and f"train/{replaced[0]:g}/" in fault["target"]
    one, other = re.findall(r"([0-9a-f]{16})…", result["invariants"]["same_weights"]["seen"])
    assert one != other  # another prompt was trained on: the excuse was needed
