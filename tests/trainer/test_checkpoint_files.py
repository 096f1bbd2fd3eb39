"""Checkpoints and the metrics file on the disk."""

from __future__ import annotations

import json
import math
from functools import partial
from pathlib import Path
from typing import cast

import pytest
import torch

from tests.support.updater_rig import random_batch, random_policy, same_weights, updater_of, weights_of
from varl.trainer.checkpoints.checkpoint import Progress, checkpoints, load_checkpoint, save_checkpoint
from varl.trainer.disk.atomic import COMPLETE
from varl.trainer.disk.metrics_log import METRICS_FILE, RunLog
from varl.trainer.parallel.shards import write_shards
from varl.trainer.step.ema import WeightAverage
from varl.trajectories.collect import failure_name
from varl.v1 import trajectory_pb2


@pytest.mark.parametrize("shards", [False, True])
def test_a_checkpoint_gives_everything_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shards: bool) -> None:
    monkeypatch.setattr("varl.trainer.parallel.shards.FILE_BYTES", 2**14)
    model = random_policy()
    updater = updater_of(model)
    average = WeightAverage(model.module, 0.9)
    updater.update([random_batch(model, [0.0, 1.0])], 0, by_scale=False)
    average.update()
    write = partial(write_shards, updater=updater, average=average) if shards else None
    path = save_checkpoint(tmp_path, Progress(1, 2), updater, average, keep=2, write=write)
    assert not shards or len(list((path / "shards").iterdir())) > 3
    again = random_policy()
    restored, other = updater_of(again), WeightAverage(again.module, 0.9)
    sampled = torch.rand(3)
    assert load_checkpoint(path, restored, other).progress == Progress(1, 2)
    assert torch.equal(sampled, torch.rand(3))
    assert same_weights(weights_of(model), weights_of(again)) and same_weights(
        list(average.weights.values()), list(other.weights.values())
    )
    for one, trained in ((updater, model), (restored, again)):
        one.update([random_batch(trained, [0.0, 1.0, 0.5], seed=4)], 1, by_scale=False)
    assert same_weights(weights_of(model), weights_of(again))


def test_random_states_of_devices_that_are_there_now_are_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    updater, state, put = updater_of(random_policy()), torch.get_rng_state(), list[int]()
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_rng_state_all", lambda: [state, state.clone()])
    path = save_checkpoint(tmp_path, Progress(1, 0), updater, None, keep=2)
    monkeypatch.setattr("torch.cuda.set_rng_state", lambda _, index: put.append(index))
    for devices in (8, 1):
        monkeypatch.setattr("torch.cuda.device_count", lambda devices=devices: devices)
        load_checkpoint(path, updater, None)
    assert put == [0, 1, 0]


def test_unfinished_checkpoints_are_not_seen_and_old_ones_go(tmp_path: Path) -> None:
    updater = updater_of(random_policy())
    for update in (1, 2, 3):
        save_checkpoint(tmp_path, Progress(update, 0), updater, None, keep=2)
    (tmp_path / "000003" / COMPLETE).unlink()
    assert [path.name for path in checkpoints(tmp_path)] == ["000002"]
    save_checkpoint(tmp_path, Progress(3, 0), updater, None, keep=2)
    assert [path.name for path in checkpoints(tmp_path)] == ["000002", "000003"]


def test_metrics_file_drops_what_lies_beyond_the_resumed_update_and_torn_lines(tmp_path: Path) -> None:
    with RunLog(tmp_path, 0) as log:
        for update in range(4):
            log.write(update, {"loss": math.nan if update == 1 else float(update)})
    with (tmp_path / METRICS_FILE).open("a") as file:
        file.write('{"update": 4, "lo')
    with RunLog(tmp_path, 2) as log:
        log.write(2, {"loss": 20.0})
    lines = [json.loads(line) for line in (tmp_path / METRICS_FILE).read_text().splitlines()]
    assert lines == [{"update": 0, "loss": 0.0}, {"update": 1, "loss": None}, {"update": 2, "loss": 20.0}]


def test_failure_codes_have_a_metric_name_each() -> None:
    names = [
        failure_name(cast(trajectory_pb2.FailureCode, code)) for code in trajectory_pb2.FailureCode.values() if code
    ]
    assert names == ["score_failed", "reward_unavailable", "weights_missing", "bad_job", "dead_letter"]
