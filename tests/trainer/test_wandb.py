"""Weights & Biases beside TensorBoard: the real package, offline, and what it leaves for ``wandb sync``."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import varl.policy.nextflow
from tests.support.paths import PYTHONPATH
from tests.support.trainer_rig import BrightnessReward, make_model, make_recipe, read_metrics, rollout_workers
from varl.launch.resources import MissingFilesError
from varl.trainer.disk import wandb_run
from varl.trainer.disk.metrics_log import RunLog
from varl.trainer.disk.wandb_run import WandbError, WandbRun, add_report, read_place
from varl.trainer.loop import train
from varl.trainer.recipe.config import Recipe
from varl.trainer.recipe.dry_run import check_files
from varl.trajectories.queue import RunQueue, connect

# Not by importing it: that takes seconds of every run of the tests.
pytestmark = pytest.mark.skipif(not wandb_run.is_installed(), reason="the extra wandb is not installed")
BLOCK, WHOLE, LAST = 32768, 1, 4  # of the log format in which wandb keeps records


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)


def records(directory: Path) -> Iterator[Any]:
    """The records of all attempts at a run, as wandb sync would send them."""
    from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]

    for file in sorted((directory / "wandb").glob("offline-run-*/run-*.wandb")):
        content, place, whole = file.read_bytes(), 7, b""
        while place + 7 <= len(content):
            if BLOCK - place % BLOCK < 7:
                place += BLOCK - place % BLOCK
            _, size, kind = struct.unpack("<IHB", content[place : place + 7])
            whole += content[place + 7 : place + 7 + size]
            place += 7 + size
            if kind in (WHOLE, LAST):
                record = Record()
                record.ParseFromString(whole)
                yield record
                whole = b""


def history(directory: Path) -> list[dict[str, Any]]:
    """What was logged, a dictionary a step, without wandb's own figures."""
    steps = [record.history.item for record in records(directory) if record.HasField("history")]
    found = [{(item.key or ".".join(item.nested_key)): json.loads(item.value_json) for item in step} for step in steps]
    return [{name: value for name, value in step.items() if not name.startswith("_")} for step in found]


def test_a_run_is_in_both_and_its_config_is_the_recipe_without_the_address_of_redis(
    redis_server: str, run_id: str, tmp_path: Path
) -> None:
    model = make_model(tmp_path / "model")
    recipe = make_recipe(
        tmp_path, run_id, run={"updates": 2}, metrics={"wandb": "tried"}, rollout={"redis_url": redis_server}
    )
    trained, reference = (varl.policy.nextflow.load(model) for _ in range(2))
    with rollout_workers(redis_server, run_id, model, BrightnessReward(), 1):
        run = train(recipe, trained, reference, RunQueue(connect(redis_server), run_id, "trainer"), resume=False)
    lines = read_metrics(run)
    assert [{name: step[name] for name in line} for step, line in zip(history(run), lines, strict=True)] == lines
    (begun,) = [record.run for record in records(run) if record.HasField("run")]
    config = {item.key: json.loads(item.value_json) for item in begun.config.update}
    assert (begun.project, begun.display_name) == ("tried", run_id)
    assert config["objective"] == recipe.model_dump(mode="json")["objective"]
    assert "redis_url" not in config["rollout"] and "group_size" in config["rollout"]
    assert list((run / "tb").glob("events.*"))


def test_a_resumed_run_and_its_report_go_on_with_the_same_one(tmp_path: Path) -> None:
    recipe = Recipe.model_validate({"metrics": {"wandb": "tried"}})
    for first in (0, 1):
        with RunLog(tmp_path, first, more=[WandbRun(recipe, tmp_path)]) as log:
            log.write(first, {"kl": 0.5})
    report = tmp_path / "report.html"
    report.write_text("<p>a report</p>")
    add_report(recipe, tmp_path, report)
    place = read_place(tmp_path)
    assert place is not None and place.url == ""
    assert {record.run.run_id for record in records(tmp_path) if record.HasField("run")} == {place.id}
    assert history(tmp_path)[:2] == [{"update": 0, "kl": 0.5}, {"update": 1, "kl": 0.5}]
    (kept,) = tmp_path.glob("wandb/offline-run-*/files/media/html/report_*.html")
    assert kept.read_text() == report.read_text()


def test_a_report_is_added_only_where_the_recipe_asks_for_it(tmp_path: Path) -> None:
    add_report(Recipe(), tmp_path, tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == []


ONLINE = """
from pathlib import Path
from varl.trainer.disk.wandb_run import WandbRun
from varl.trainer.recipe.config import Recipe
WandbRun(Recipe.model_validate({"metrics": {"wandb": "tried"}}), Path("run"))
"""


def test_online_without_a_key_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    place = {"WANDB_MODE": "online", "WANDB_BASE_URL": "http://127.0.0.1:9", "PYTHONPATH": PYTHONPATH}
    done = subprocess.run(  # a process of its own, for wandb reads the environment once
        [sys.executable, "-c", ONLINE],
        env=os.environ | place,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "WandbError: metrics.wandb: " in done.stderr
    assert "key" in done.stderr.rpartition("WandbError: ")[2].lower()


def test_where_the_package_is_missing_the_recipe_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "wandb").mkdir()  # the folder that wandb leaves is no package
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(wandb_run, "PACKAGE", "wandb-that-nobody-installed")
    recipe = Recipe.model_validate({"metrics": {"wandb": "tried"}})
    with pytest.raises(MissingFilesError, match=r"metrics\.wandb: .* pip install 'varl\[wandb\]'"):
        check_files(recipe)
    with pytest.raises(WandbError, match="not installed"):
        WandbRun(recipe, tmp_path)
