"""The run that the report's tests begin with, and its page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.html_tree import Element, Page
from tests.support.report_rig import AFTER, BEFORE, ROWS
from varl.launch.machine import describe_machine
from varl.studies.report.readings import save_evaluation
from varl.studies.report.report import RunFacts, write_report
from varl.trainer.disk.metrics_log import METRICS_FILE
from varl.trainer.recipe.config import Recipe
from varl.trainer.recipe.describe import to_toml


@pytest.fixture
def run(tmp_path: Path) -> Path:
    recipe = Recipe.model_validate(
        {
            "run": {"name": "small", "seed": 5, "updates": 30},
            "evaluation": {"seed": 77, "sampling": {"temperature": 0.8, "top_k": 12}},
        }
    )
    (tmp_path / "config.toml").write_text(to_toml(recipe))
    facts = RunFacts(
        finished="2026-01-02T03:04:05+00:00",
        machine=describe_machine("cpu"),
        stages={"Training": 3725.0, "Starting": 4.21},
    )
    (tmp_path / "facts.json").write_text(facts.model_dump_json())
    (tmp_path / METRICS_FILE).write_text("".join(f"{json.dumps(row)}\n" for row in ROWS))
    for side in (BEFORE, AFTER):
        save_evaluation(tmp_path, side)
    return tmp_path


@pytest.fixture
def page(run: Path) -> Element:
    return Page(write_report(run).read_text()).stack[0]
