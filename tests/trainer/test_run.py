"""Whole runs on a real Redis with real rollout workers.

Learning, reproducibility, resuming, failures, acknowledgement.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import varl.policy.nextflow
from tests.support.trainer_rig import (
    METHOD,
    PROMPTS,
    VANILLA,
    BrightnessReward,
    column,
    make_model,
    make_recipe,
    read_metrics,
    rollout_workers,
)
from tests.support.trajectory_builders import LAYOUT, make_job, make_trajectory
from varl.launch.supervisor import sigterm_as_exit
from varl.trainer.checkpoints.checkpoint import checkpoints
from varl.trainer.loop import train
from varl.trainer.recipe.config import Recipe
from varl.trainer.rollouts.jobs import PublishedWeights
from varl.trainer.run import Evaluate, RolloutFailedError, Run, RunInUseError
from varl.trainer.step.batch import GroupBatch
from varl.trainer.step.update import Updater
from varl.trajectories.collect import Patience, RolloutTimeoutError, collect
from varl.trajectories.queue import RunQueue, connect
from varl.trajectories.stream import GroupStream


def run_recipe(
    recipe: Recipe,
    redis_url: str,
    reward: BrightnessReward | None = None,
    workers: int = 1,
    resume: bool = False,
    evaluate: Evaluate | None = None,
) -> Path:
    trained, reference = (varl.policy.nextflow.load(recipe.model.dir) for _ in range(2))
    queue = RunQueue(connect(redis_url), recipe.run.name, "trainer")
    with rollout_workers(redis_url, recipe.run.name, recipe.model.dir, reward or BrightnessReward(), workers):
        return train(recipe, trained, reference, queue, resume, evaluate)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def model_dir(tmp_path: Path) -> Path:
    return make_model(tmp_path / "model")


@pytest.mark.heavy
@pytest.mark.parametrize("objective", [VANILLA, METHOD], ids=["vanilla", "method"])
def test_a_reward_that_can_be_learned_rises_and_first_ratios_are_one(
    objective: dict[str, Any], redis_server: str, run_id: str, tmp_path: Path, model_dir: Path
) -> None:
    recipe = make_recipe(tmp_path, run_id, run={"updates": 24}, objective=objective, optimizer={"lr": 1e-2})
    run = run_recipe(recipe, redis_server)
    rewards, spread = column(run, "reward/total"), column(run, "reward_std")
    assert len(rewards) == 24
    assert (
        fmean(rewards[-4:]) - fmean(rewards[:4]) > spread[0]
    )  # one std of single images: many times the noise of these means
    assert column(run, "ratio_mean")[0] == pytest.approx(1, abs=1e-4)
    assert max(column(run, "ratio_max_deviation")) < 1e-3
    assert column(run, "clip_ratio/high") == column(run, "clip_ratio/low") == [0.0] * 24
    assert column(run, "staleness") == [0.0] * 24
    assert column(run, "kl")[0] == pytest.approx(0, abs=1e-6) and column(run, "kl")[-1] > 1e-3


def test_the_stage_decides_which_scales_have_metrics_and_masks_reach_them(
    redis_server: str, run_id: str, tmp_path: Path, model_dir: Path
) -> None:
    recipe = make_recipe(tmp_path, run_id, objective=METHOD, metrics={"diagnostics_every": 1})
    lines = read_metrics(run_recipe(recipe, redis_server))
    for line, scales in zip(lines, [(1, 2, 3)] * 3 + [(4, 5)], strict=False):
        for name in ("kl", "entropy", "mask_fraction", "grad_norm"):
            assert {key for key in line if key.startswith(f"{name}/")} == {f"{name}/scale_{scale}" for scale in scales}
    assert [lines[0][f"mask_fraction/scale_{scale}"] for scale in (1, 2, 3)] == [
        1.0,
        0.5,
        0.5,
    ]  # the left half of 1, 2, 4 columns
    assert lines[0]["panw/effective_scale"] == pytest.approx(1)


REWARD_COLUMNS = ("reward/total", "reward/brightness", "reward_std", "zero_std_ratio")


def test_the_same_run_twice_gives_the_same_rewards_whatever_the_order_of_arrival(
    redis_server: str, run_id: str, tmp_path: Path, model_dir: Path
) -> None:
    first = run_recipe(make_recipe(tmp_path, run_id, objective=METHOD), redis_server)
    second = run_recipe(make_recipe(tmp_path, f"{run_id}-again", objective=METHOD), redis_server, workers=2)
    other = run_recipe(make_recipe(tmp_path, f"{run_id}-other", run={"seed": 1}, objective=METHOD), redis_server)
    for name in REWARD_COLUMNS:
        assert column(first, name) == column(second, name)
    assert column(first, "grad_norm") == column(second, "grad_norm")
    assert column(first, "reward/total") != column(other, "reward/total")


class StoppedError(RuntimeError):
    """Stands for a crash of the trainer."""


def test_a_resumed_run_goes_on_as_if_it_had_never_stopped(
    redis_server: str, run_id: str, tmp_path: Path, model_dir: Path
) -> None:
    settings: dict[str, Any] = {
        "objective": METHOD | {"kl_anchor": "previous"},
        "optimizer": {"ema_decay": 0.5},
        "checkpoint": {"every": 2},
    }
    whole = run_recipe(make_recipe(tmp_path, f"{run_id}-whole", run={"updates": 6}, **settings), redis_server)
    recipe = make_recipe(tmp_path, run_id, run={"updates": 6}, evaluation={"every": 5}, **settings)

    def crash_at_5(weights: object) -> dict[str, float]:
        if getattr(weights, "version") == 5:  # noqa: B009
            raise StoppedError
        return {}

    with pytest.raises(StoppedError):
        run_recipe(recipe, redis_server, evaluate=crash_at_5)
    broken = recipe.run.dir / run_id
    assert [line["update"] for line in read_metrics(broken)] == [0, 1, 2, 3, 4]
    with pytest.raises(RunInUseError, match="pass --resume "):
        run_recipe(recipe, redis_server)
    run_recipe(recipe, redis_server, resume=True, evaluate=lambda weights: {})
    assert [line["update"] for line in read_metrics(broken)] == [0, 1, 2, 3, 4, 5, 6]
    for name in (*REWARD_COLUMNS, "grad_norm", "kl"):
        assert column(broken, name) == column(whole, name)
    finals = [load_file(run / "weights" / "final.safetensors") for run in (whole, broken)]
    assert all(bool((finals[0][name] == finals[1][name]).all()) for name in finals[0])


def test_a_run_that_is_told_to_stop_saves_what_it_has(
    redis_server: str, run_id: str, tmp_path: Path, model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {"objective": METHOD, "checkpoint": {"every": 100}, "run": {"updates": 6}}
    whole = run_recipe(make_recipe(tmp_path, f"{run_id}-whole", **settings), redis_server)
    recipe = make_recipe(tmp_path, run_id, evaluation={"every": 2}, **settings)
    real = Updater.update

    def told_during_update_4(self: Updater, batches: Sequence[GroupBatch], number: int, by_scale: bool) -> Any:  # noqa: ANN401
        if number == 4:
            signal.raise_signal(signal.SIGTERM)
        return real(self, batches, number, by_scale)

    def told_before_update_2(weights: PublishedWeights) -> dict[str, float]:
        if weights.version == 2:
            signal.raise_signal(signal.SIGTERM)
        return {}

    def attempt(evaluate: Evaluate) -> list[str]:
        with sigterm_as_exit(), pytest.raises(SystemExit) as ended:
            run_recipe(recipe, redis_server, resume=True, evaluate=evaluate)
        assert ended.value.code == 128 + signal.SIGTERM
        return [path.name for path in checkpoints(recipe.run.dir / run_id / "checkpoints")]

    assert attempt(told_before_update_2) == ["000002"]
    with monkeypatch.context() as patch:
        patch.setattr(Updater, "update", told_during_update_4)
        assert attempt(lambda weights: {}) == ["000002", "000005"]
    resumed = run_recipe(recipe, redis_server, resume=True, evaluate=lambda weights: {})
    assert [line["update"] for line in read_metrics(resumed)] == [0, 1, 2, 3, 4, 5, 6]
    for name in (*REWARD_COLUMNS, "grad_norm", "kl"):
        assert column(resumed, name) == column(whole, name)


def test_trajectories_are_acknowledged_only_by_a_checkpoint(
    redis_server: str, run_id: str, tmp_path: Path, model_dir: Path
) -> None:
    recipe = make_recipe(tmp_path, run_id, objective=VANILLA)
    trained, reference = (varl.policy.nextflow.load(model_dir) for _ in range(2))
    client = connect(redis_server)
    trajectories = GroupStream(client, f"varl:{run_id}:trajectories", "trainer", "inspector")
    run = Run(recipe, trained, reference, RunQueue(client, run_id, "trainer"), None)
    with rollout_workers(redis_server, run_id, model_dir, BrightnessReward()):
        progress = run.start(resume=False)
        for _ in range(2):
            with ExitStack() as whole:
                progress, _ = run.update(progress, whole)
        assert trajectories.pending() == client.xlen(trajectories.key) == 6
        run.checkpoint_manager.save(progress)
    assert trajectories.pending() == client.xlen(trajectories.key) == 0


def test_a_failing_group_is_queued_again_then_dropped_and_never_scored(
    redis_server: str, run_id: str, tmp_path: Path, model_dir: Path
) -> None:
    reward = BrightnessReward(refused=PROMPTS[:1])
    rollout = {"prompts_per_update": 5, "max_attempts": 3, "max_replacements": 0}
    recipe = make_recipe(tmp_path, run_id, run={"updates": 2}, rollout=rollout, objective=VANILLA)
    lines = read_metrics(run_recipe(recipe, redis_server, reward))[:2]
    for line in lines:  # every update draws all five prompts
        assert (line["failures/score_failed"], line["groups/dropped"], line["groups/used"]) == (3, 1, 4)
        assert line["reward/total"] > 0.4  # a failure counted as 0 would pull the mean of five below
    assert reward.asked.count(PROMPTS[0]) == 2 * 3 * recipe.rollout.group_size


def test_a_poison_prompt_is_a_dead_letter_and_another_prompt_takes_its_place_every_time(
    redis_server: str, run_id: str, tmp_path: Path, model_dir: Path
) -> None:
    runs = []
    for name in (run_id, f"{run_id}-again"):
        rollout = {"prompts_per_update": 4, "max_attempts": 2}
        recipe = make_recipe(tmp_path, name, run={"updates": 3}, rollout=rollout, objective=VANILLA)
        runs.append(run_recipe(recipe, redis_server, BrightnessReward(refused=PROMPTS[:1])))
        dead: Any = connect(redis_server).xrange(f"varl:{name}:dead")
        replaced = int(sum(column(runs[-1], "groups/replaced")))
        assert (
            len(dead) == replaced >= 2
        )  # of three updates of four prompts out of five, two have the poisoned one at least
        assert all(b"score_failed" in fields[b"reason"] and PROMPTS[0].encode() in fields[b"m"] for _, fields in dead)
    assert column(runs[0], "groups/used") == [4.0] * 3
    assert column(runs[0], "reward/total") == column(runs[1], "reward/total")


def test_a_run_without_any_group_gives_up_and_says_why(
    redis_server: str, run_id: str, tmp_path: Path, model_dir: Path
) -> None:
    recipe = make_recipe(tmp_path, run_id, rollout={"max_attempts": 1, "max_empty_updates": 2}, objective=VANILLA)
    with pytest.raises(RolloutFailedError, match=r"2 updates in a row.*score_failed.*refused by the test"):
        run_recipe(recipe, redis_server, BrightnessReward(refused=PROMPTS))
    lines = read_metrics(recipe.run.dir / run_id)
    assert [line["skipped/no_groups"] for line in lines] == [1.0, 1.0]
    assert not any(name.startswith(("reward", "grad_norm")) for line in lines for name in line)


def test_silent_workers_are_a_clear_error(redis_server: str, run_id: str, tmp_path: Path, model_dir: Path) -> None:
    recipe = make_recipe(tmp_path, run_id, rollout={"group_timeout_s": 0.2}, objective=VANILLA)
    trained, reference = (varl.policy.nextflow.load(model_dir) for _ in range(2))
    with pytest.raises(RolloutTimeoutError, match=r"3 of run .* are missing .*3 of their jobs were not even taken"):
        train(recipe, trained, reference, RunQueue(connect(redis_server), run_id, "trainer"), resume=False)


def test_a_group_of_another_model_is_a_failure_not_a_crash(redis_server: str, run_id: str) -> None:
    trainer, worker = (RunQueue(connect(redis_server), run_id, name) for name in ("trainer", "worker"))
    jobs = [make_job(run_id, job_id="train/0/0")]

    def answer_twice() -> None:
        for _ in range(2):
            delivery = worker.take_job(10_000, 60_000)
            assert delivery is not None
            worker.publish(delivery, make_trajectory(delivery.message))

    with ThreadPoolExecutor(1) as pool:
        answered = pool.submit(answer_twice)
        result = collect(
            trainer, jobs, replace(LAYOUT, grids=((1, 1), (2, 2), (4, 4))), Patience(timeout_s=30, max_attempts=2)
        )
        answered.result()
    assert result.groups == [] and result.failures == {"bad_job": 2}
    assert "another model" in result.dropped[0].detail


def test_a_run_leaves_samples_weights_and_its_recipe(
    redis_server: str, run_id: str, tmp_path: Path, model_dir: Path
) -> None:
    metrics = {"samples_every": 2, "sample_prompts": 2, "samples_per_prompt": 3}
    recipe = make_recipe(
        tmp_path,
        run_id,
        run={"updates": 3},
        objective=VANILLA,
        metrics=metrics,
        checkpoint={"keep_weights": 2, "keep": 1, "every": 1},
    )
    run = run_recipe(recipe, redis_server)
    assert sorted(path.name for path in (run / "samples").iterdir()) == ["000000.png", "000002.png", "000003.png"]
    with Image.open(run / "samples" / "000000.png") as grid:
        assert len(grid.convert("RGB").getcolors(1 << 24) or []) > 100  # pictures, not an empty sheet
    kept = {f"v00000{version}.{kind}" for version in (2, 3) for kind in ("json", "safetensors")}
    assert {path.name for path in (run / "weights").iterdir()} == kept | {"final.safetensors"}
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["000003"]
    assert any((run / "tb").iterdir())
    trained = load_file(run / "weights" / "final.safetensors")
    base = load_file(model_dir / "policy.safetensors")
    assert any(bool((trained[name] != base[name]).any()) for name in base)
