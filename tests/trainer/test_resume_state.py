"""What a checkpoint holds, which ones count, which ones stay, and what a changed recipe meets."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import redis

import varl.policy.nextflow
from tests.support.full_disks import largest_file
from tests.support.trainer_rig import METHOD, VANILLA, make_model, make_recipe, make_updater
from varl.trainer.checkpoints.checkpoint import (
    Progress,
    TrainedState,
    checkpoints,
    load_checkpoint,
    newest_checkpoint,
    save_checkpoint,
    sweep,
)
from varl.trainer.checkpoints.manager import CheckpointManager
from varl.trainer.disk.atomic import COMPLETE, damage
from varl.trainer.disk.retry import Storage
from varl.trainer.recipe.changes import RecipeChangedError, module_digest, read_resolved, recipe_changes
from varl.trainer.recipe.config import Recipe, parse_command
from varl.trainer.recipe.describe import to_toml
from varl.trainer.recipe.sections import CheckpointSettings, ParallelSettings
from varl.trainer.run import Run
from varl.trainer.step.update import Updater
from varl.trajectories.queue import RunQueue


@pytest.fixture
def updater() -> Updater:
    return make_updater()


def test_random_states_of_python_and_numpy_come_back(tmp_path: Path, updater: Updater) -> None:
    random.seed(1)
    np.random.seed(1)
    path = save_checkpoint(tmp_path, Progress(1, 0), updater, None, keep=1)
    drawn = random.random(), np.random.rand()
    load_checkpoint(path, updater, None)
    assert (random.random(), np.random.rand()) == drawn


def test_a_damaged_checkpoint_is_passed_over_and_named(
    tmp_path: Path, updater: Updater, caplog: pytest.LogCaptureFixture
) -> None:
    paths = [save_checkpoint(tmp_path, Progress(update, 0), updater, None, keep=3) for update in (1, 2, 3)]
    file = paths[2] / "policy.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\0")
    (paths[1] / COMPLETE).write_text("{}")
    assert newest_checkpoint(tmp_path) == paths[0]
    assert "policy.safetensors has changed" in caplog.text and "names no files" in caplog.text


def test_leftovers_without_a_mark_are_no_checkpoints_and_are_swept(tmp_path: Path, updater: Updater) -> None:
    kept = save_checkpoint(tmp_path, Progress(1, 0), updater, None, keep=1)
    (tmp_path / ".000002.part").mkdir()
    (tmp_path / "000003").mkdir()
    assert checkpoints(tmp_path) == [kept]
    sweep(tmp_path)
    assert list(tmp_path.iterdir()) == [kept] and damage(kept) is None


@pytest.fixture
def checkpoint_manager(tmp_path: Path, updater: Updater, redis_client: redis.Redis, run_id: str) -> CheckpointManager:
    queue = RunQueue(redis_client, run_id, "trainer")
    return CheckpointManager(
        tmp_path / "c",
        CheckpointSettings(keep=1),
        TrainedState(updater, None),
        queue,
        lambda progress: {"inputs": {}},
        lambda update: {},
        Storage(),
    )


def test_the_best_checkpoint_by_evaluation_outlives_newer_ones(checkpoint_manager: CheckpointManager) -> None:
    for update, reward in ((0, 0.1), (2, 0.5), (4, 0.3), (6, 0.4)):
        checkpoint_manager.save(Progress(update, 0))
        checkpoint_manager.judge(Progress(update, 0), {"eval/reward": reward})
    checkpoint_manager.judge(Progress(7, 0), {"loss": 9.0})  # no evaluation, no verdict
    assert [path.name for path in checkpoints(checkpoint_manager.directory)] == ["000002", "000006"]
    checkpoint_manager.judge(Progress(8, 0), {"eval/reward": 0.6})  # not due, but better than all before
    checkpoint_manager.save(Progress(10, 0))
    assert [path.name for path in checkpoints(checkpoint_manager.directory)] == ["000008", "000010"]


def test_a_full_disk_postpones_a_checkpoint_and_keeps_the_old_one(checkpoint_manager: CheckpointManager) -> None:
    checkpoint_manager.save(Progress(1, 0))
    with largest_file(4096):
        assert not checkpoint_manager.save_or_postpone(Progress(2, 0))
    assert (
        checkpoint_manager.failures == 1
        and newest_checkpoint(checkpoint_manager.directory) == checkpoint_manager.directory / "000001"
    )
    assert checkpoint_manager.save_or_postpone(Progress(3, 0))
    assert [path.name for path in checkpoint_manager.directory.iterdir()] == ["000003"]


def test_a_checkpoint_names_cursor_queue_and_inputs(redis_client: redis.Redis, run_id: str, tmp_path: Path) -> None:
    run = start(make_run(redis_client, make_recipe(tmp_path, run_id, objective=VANILLA)))
    run.checkpoint_manager.save(Progress(2, 0))
    restored = run.checkpoint_manager.restore()
    assert restored is not None
    notes = restored.notes
    assert notes["prompt_cursor"] == 2 * 3
    assert (
        set(notes["queue"]) == {"jobs", "trajectories", "used"}
        and len(notes["inputs"]["model"]) == len(notes["inputs"]["prompts"]) == 64
    )


def make_run(client: redis.Redis, recipe: Recipe) -> Run:
    if not recipe.model.dir.exists():
        make_model(recipe.model.dir)
    trained, reference = (varl.policy.nextflow.load(recipe.model.dir) for _ in range(2))
    return Run(recipe, trained, reference, RunQueue(client, recipe.run.name, "trainer"), None)


def start(run: Run) -> Run:
    run.start(resume=False)
    return run


def test_a_changed_recipe_is_refused_by_the_names_of_its_keys(
    redis_client: redis.Redis, run_id: str, tmp_path: Path
) -> None:
    start(make_run(redis_client, make_recipe(tmp_path, run_id, objective=METHOD))).checkpoint_manager.save(
        Progress(2, 0)
    )
    free = make_recipe(tmp_path, run_id, objective=METHOD, run={"updates": 9}, checkpoint={"every": 1})
    assert make_run(redis_client, free).start(resume=True) == Progress(2, 0)
    changed = make_recipe(tmp_path, run_id, objective=METHOD | {"alpha": 0.5}, optimizer={"lr": 1e-5})
    with pytest.raises(RecipeChangedError) as refused:
        make_run(redis_client, changed).start(resume=True)
    assert "objective.alpha: 0.6 -> 0.5" in str(refused.value) and "optimizer.lr: 0.003 -> 1e-05" in str(refused.value)
    assert "run.updates" not in str(refused.value)
    assert make_run(redis_client, changed).start(resume=True, allow_changes=True) == Progress(2, 0)


def test_other_prompts_or_another_model_under_the_same_name_are_refused(
    redis_client: redis.Redis, run_id: str, tmp_path: Path
) -> None:
    recipe = make_recipe(tmp_path, run_id, objective=VANILLA)
    start(make_run(redis_client, recipe)).checkpoint_manager.save(Progress(2, 0))
    with recipe.prompts.train.open("a") as file:
        file.write(json.dumps({"prompt": "one more 'X'", "target_words": ["X"]}) + "\n")
    make_model(recipe.model.dir, seed=1)
    with pytest.raises(RecipeChangedError, match=r"content of model: .*\n.*content of prompts"):
        make_run(redis_client, recipe).start(resume=True)


def test_a_key_that_the_older_recipe_lacks_had_its_default(tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path, "run", objective=VANILLA)
    text = to_toml(recipe).replace('best = "eval/reward"\n', "").replace("eta = 1.0\n", "")
    assert "eta" not in text.replace("beta", "")
    (tmp_path / "config.toml").write_text(text)
    assert recipe_changes(tmp_path / "config.toml", recipe) == []


@pytest.mark.parametrize(("older", "now"), [("false", "long"), ("true", "always")])
def test_a_run_of_before_optimizer_recompute_goes_on(tmp_path: Path, older: str, now: str) -> None:
    lines = to_toml(make_recipe(tmp_path, "run", objective=VANILLA)).splitlines()
    kept = [line for line in lines if not line.startswith("recompute = ")]
    kept.insert(kept.index("[parallel]") + 1, f"recompute = {older}")
    (tmp_path / "config.toml").write_text("\n".join(kept))
    found = read_resolved(tmp_path / "config.toml")
    assert found.optimizer.recompute == now and found.parallel == ParallelSettings()


def test_the_digest_of_a_model_sees_every_weight() -> None:
    one, other = varl.policy.nextflow.build_random(0), varl.policy.nextflow.build_random(0)
    assert module_digest(one.module) == module_digest(other.module)
    next(iter(other.module.parameters())).data.flatten()[0] += 1e-3
    assert module_digest(one.module) != module_digest(other.module)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], "never"),
        (["--resume"], "auto"),
        (["--resume", "never"], "never"),
        (["--resume", "--run.seed", "3"], "auto"),
    ],
)
def test_a_bare_resume_flag_means_auto(flags: list[str], expected: str) -> None:
    recipe = "recipes/tiny_demo.toml"
    assert parse_command([recipe, *flags]).resume == parse_command([*flags, recipe]).resume == expected
