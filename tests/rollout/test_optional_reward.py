"""Rewards that may be absent, and one that may not, with real services that fail.

Trained without it or not at all, never on a 0.
"""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import redis

from tests.support.rollout_helpers import WAIT_S, RolloutProcess, rollout_process
from tests.support.same_runs import assert_same_final_weights, measured, write_recipe
from tests.support.toy_process import ToyProcess, toy_service
from tests.support.trainer_process import trainer_process
from tests.support.trainer_rig import PROMPTS, make_model, read_metrics
from varl.policy.base import SamplingParams
from varl.policy.nextflow import load
from varl.services.rollout.generation import Limits, generate_images
from varl.services.rollout.images import encode_png
from varl.trainer.recipe.config import Recipe

WEIGHT, GROUPS = 0.5, 2
REQUIRED: dict[str, Any] = {"name": "toy"}
OPTIONAL: dict[str, Any] = {"name": "style", "weight": WEIGHT, "required": False}


def recipe_of(
    directory: Path,
    name: str,
    rewards: list[dict[str, Any]],
    updates: int,
    **rollout: Any,  # noqa: ANN401
) -> tuple[Path, Recipe]:
    settings = {"prompts_per_update": GROUPS, "group_size": 8, "rewards": rewards, **rollout}
    return write_recipe(directory, name, run={"updates": updates}, rollout=settings, evaluation={"every": 0})


@contextmanager
def worker(
    redis_url: str, recipe: Recipe, toy: ToyProcess, style: ToyProcess, timeout_s: float = 120
) -> Iterator[RolloutProcess]:
    services = {"toy": toy.grpc, "style": style.grpc}
    flags = ("--score-timeout-s", str(timeout_s), "--decode-batch", "4")
    with rollout_process(redis_url, recipe.run.name, recipe.model.dir, services, *flags) as running:
        yield running


def kill(service: ToyProcess) -> None:
    service.ended = True
    service.process.send_signal(signal.SIGKILL)
    service.process.wait()


def again(service: ToyProcess) -> tuple[str, ...]:
    """Flags by which another process takes the place of one that was killed."""
    return ("--http-port", str(service.http_port), "--grpc-port", str(service.grpc_port))


def quarter_of_sizes(model_dir: Path) -> int:
    """Bytes that a quarter of the images of the untrained policy have at most."""
    steps = generate_images(load(model_dir), PROMPTS[0], 0, 64, SamplingParams(), Limits(64, 64))
    return int(np.quantile([len(encode_png(pixels)) for step in steps for pixels in step.pixels], 0.25))


def counted_by(service: ToyProcess, name: str) -> float:
    """Sum of a metric of a reward service over its labels."""
    text = httpx.get(f"{service.http}/metrics", timeout=WAIT_S).text
    return sum(float(value) for value in re.findall(rf"^{name}\{{.*\}} (.*)$", text, re.MULTILINE))


@pytest.mark.timeout(600)
def test_where_some_images_lack_an_optional_reward_the_run_is_that_without_it(
    redis_server: str, run_id: str, tmp_path: Path
) -> None:
    updates, directories = 4, list[Path]()
    model_dir = make_model(tmp_path / "model")
    with toy_service() as toy, toy_service("--max-image-bytes", str(quarter_of_sizes(model_dir))) as style:
        for name, rewards in ((f"{run_id}-alone", [REQUIRED]), (run_id, [REQUIRED, OPTIONAL])):
            file, recipe = recipe_of(tmp_path, name, rewards, updates)
            with (
                worker(redis_server, recipe, toy, style) as running,
                trainer_process(file, redis_server, tmp_path / "log") as trainer,
            ):
                trainer.finishes()
                counted = running.metric('varl_rollout_rewards_absent_total{reward="style"}')
            directories.append(recipe.run.dir / name)
        scored, refused = (counted_by(style, f"varl_{name}_total") for name in ("samples", "failures"))
    assert counted == GROUPS * updates
    assert scored > 0 and refused > 0  # parts of the groups had a score
    alone, both = (measured(directory) for directory in directories)
    assert [row.pop("rewards_absent/style") for row in both if "loss" in row] == [GROUPS] * updates
    assert alone == both
    assert_same_final_weights(*directories)


@pytest.mark.timeout(600)
def test_a_run_goes_on_without_an_optional_service_that_dies_and_with_it_once_it_is_back(
    redis_server: str, run_id: str, tmp_path: Path
) -> None:
    make_model(tmp_path / "model")
    file, recipe = recipe_of(tmp_path, run_id, [REQUIRED, OPTIONAL], updates=12)
    with ExitStack() as stack:
        toy, style = (stack.enter_context(toy_service("--forward-ms", "60")) for _ in range(2))
        running = stack.enter_context(worker(redis_server, recipe, toy, style, timeout_s=3))
        trainer = stack.enter_context(trainer_process(file, redis_server, tmp_path / "log"))
        place = trainer.says("update 1: stepped")
        kill(style)
        trainer.says(r"update \d+: stepped", trainer.says(r"update \d+: stepped", place))
        counted = running.metric('varl_rollout_rewards_absent_total{reward="style"}')
        stack.enter_context(toy_service(*again(style)))
        trainer.finishes()
    rows = [row for row in read_metrics(recipe.run.dir / run_id) if "loss" in row]
    assert len(rows) == 12 and counted > 0
    absent = [row.get("rewards_absent/style", 0) for row in rows]
    assert absent[0] == absent[-1] == 0 and GROUPS in absent, absent
    for row, lacking in zip(rows, absent, strict=True):
        assert "failures/reward_unavailable" not in row and row["groups/used"] == GROUPS
        assert ("reward/style" in row) == (lacking < GROUPS)
        if lacking in (0, GROUPS):
            assert row["reward/total"] == pytest.approx(
                row["reward/toy"] + WEIGHT * row.get("reward/style", 0), abs=1e-12
            )
            assert row.get("reward/style", 1) > 0


@pytest.mark.timeout(600)
def test_without_a_required_service_groups_are_dead_letters_until_it_is_back(
    redis_server: str, redis_client: redis.Redis, run_id: str, tmp_path: Path
) -> None:
    make_model(tmp_path / "model")
    patience = {"max_attempts": 2, "max_replacements": 1, "max_empty_updates": 1000}
    file, recipe = recipe_of(tmp_path, run_id, [REQUIRED, OPTIONAL], updates=30, **patience)
    dead = f"varl:{run_id}:dead"
    with ExitStack() as stack:
        toy, style = (stack.enter_context(toy_service("--forward-ms", "30")) for _ in range(2))
        stack.enter_context(worker(redis_server, recipe, toy, style, timeout_s=1))
        trainer = stack.enter_context(trainer_process(file, redis_server, tmp_path / "log"))
        trainer.says("update 1: stepped")
        kill(toy)
        while redis_client.xlen(dead) < 2 * GROUPS:
            assert trainer.process.poll() is None
            time.sleep(0.05)
        stack.enter_context(toy_service(*again(toy)))
        trainer.finishes()
    rows = [row for row in read_metrics(recipe.run.dir / run_id) if "groups/used" in row]
    given_up = sum(row.get("groups/replaced", 0) + row["groups/dropped"] for row in rows)
    letters: Any = redis_client.xrange(dead)
    assert len(letters) == given_up >= 2 * GROUPS
    assert all(b"reward_unavailable: reward 'toy'" in fields[b"reason"] for _, fields in letters)
    failures = sum(row.get("failures/reward_unavailable", 0) for row in rows)
    assert (
        2 * given_up <= failures <= 2 * given_up + GROUPS
    )  # two attempts each, and one at those that it came back in time for
    for row in rows:
        assert row["groups/used"] + row["groups/dropped"] == GROUPS
        assert ("reward/total" in row) == (row["groups/used"] > 0)
        assert row.get("reward/toy", 1) > 0.05  # a failure counted as 0 would be one
    assert rows[-1]["groups/used"] == GROUPS
