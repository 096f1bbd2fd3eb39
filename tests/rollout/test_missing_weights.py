"""Two workers, one of which cannot get the weights that jobs require.

It samples nothing, the other samples everything, and nothing is lost.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import redis

from chaos.data_faults import flip
from tests.support.rollout_helpers import WAIT_S, RolloutProcess, RunningReward, rollout_process, running_reward
from tests.support.same_runs import assert_same_run, write_recipe
from tests.support.trainer_process import trainer_process
from tests.support.trainer_rig import make_model, read_metrics
from varl.trainer.recipe.config import Recipe

UPDATES = 5
FLAGS = ("--min-idle-s", "1", "--max-deliveries", "1000")
BIND = 'mount --bind "$1" "$2" && shift 2 && exec "$@"'


def seeing(other: Path, place: Path) -> list[str]:
    """A command whose process, and nobody else, sees the folder ``other`` in the place of another one."""
    return ["unshare", "--mount", "sh", "-c", BIND, "sh", str(other), str(place)]


def recipe_of(directory: Path, name: str, store: Path) -> tuple[Path, Recipe]:
    store.mkdir()
    checkpoint = {"every": 2, "keep_weights": UPDATES + 2, "weights_url": f"file://{store}"}
    return write_recipe(directory, name, run={"updates": UPDATES}, checkpoint=checkpoint, evaluation={"every": 0})


@pytest.fixture(scope="module")
def reward() -> Iterator[RunningReward]:
    with running_reward() as running:
        yield running


@pytest.fixture(scope="module")
def whole(redis_server: str, tmp_path_factory: pytest.TempPathFactory, reward: RunningReward) -> Path:
    """A run of one worker that has all weights; its store keeps every version."""
    directory = tmp_path_factory.mktemp("whole")
    model = make_model(directory / "model")
    file, recipe = recipe_of(directory, "weights-whole", directory / "store")
    working = rollout_process(redis_server, recipe.run.name, model, {"bright": reward.target})
    with working, trainer_process(file, redis_server, directory / "log") as trainer:
        trainer.finishes()
    return directory


def damaged(store: Path, copy: Path) -> Path:
    """The same manifests with other bytes in the files that they name."""
    shutil.copytree(store, copy)
    for file in copy.glob("*.safetensors"):
        flip(file)
    return copy


def wait_until_left(worker: RolloutProcess) -> None:
    deadline = time.monotonic() + WAIT_S
    while not worker.metric('varl_rollout_groups_total{outcome="left_to_others"}'):
        assert time.monotonic() < deadline and worker.process.poll() is None
        time.sleep(0.05)


@pytest.mark.timeout(600)
def test_workers_without_the_weights_leave_all_jobs_to_the_one_that_has_them(
    redis_server: str,
    redis_client: redis.Redis,
    run_id: str,
    tmp_path: Path,
    reward: RunningReward,
    whole: Path,
) -> None:
    store, empty, other = tmp_path / "store", tmp_path / "empty", damaged(whole / "store", tmp_path / "other")
    empty.mkdir()
    model = make_model(tmp_path / "model")
    file, recipe = recipe_of(tmp_path, run_id, store)
    if subprocess.run([*seeing(empty, store), "true"], capture_output=True).returncode:
        pytest.skip("this user may not show a process another folder")
    rewards = {"bright": reward.target}
    with ExitStack() as stack:
        poor = [
            stack.enter_context(
                rollout_process(redis_server, run_id, model, rewards, *FLAGS, prefix=seeing(seen, store))
            )
            for seen in (empty, other)
        ]
        with trainer_process(file, redis_server, tmp_path / "log") as trainer:
            for worker in poor:
                wait_until_left(worker)
            with rollout_process(redis_server, run_id, model, rewards, *FLAGS) as rich:
                trainer.finishes()
                assert rich.metric('varl_rollout_groups_total{outcome="ok"}') == 2 * UPDATES
        for worker in poor:
            assert worker.metric('varl_rollout_groups_total{outcome="left_to_others"}') >= 1
            assert worker.metric('varl_rollout_groups_total{outcome="ok"}') == 0
            assert worker.metric("varl_rollout_images_total") == 0
    assert_same_run(whole / "runs" / "weights-whole", recipe.run.dir / run_id)
    assert not any(name.startswith("failures/") for row in read_metrics(recipe.run.dir / run_id) for name in row)
    for stream in ("jobs", "trajectories", "dead"):
        assert redis_client.xlen(f"varl:{run_id}:{stream}") == 0
