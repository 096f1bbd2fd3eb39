"""What is published and asked for by a run that draws ahead, also after an attempt that died past its checkpoint."""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path

import fsspec
import pytest
import redis
from safetensors import safe_open

from tests.support.trainer_rig import make_updater
from tests.support.trajectory_builders import make_job
from varl.trainer.rollouts.jobs import PublishedWeights
from varl.trainer.rollouts.prefetch import Prefetcher
from varl.trainer.rollouts.publish import Publisher
from varl.trainer.step.update import Updater
from varl.trajectories.queue import RunQueue
from varl.trajectories.weights import fetch, read_manifest
from varl.v1 import rollout_pb2

UPDATES, EVERY, DEATH = 20, 4, 7  # of the run, between checkpoints, and done when an attempt dies


class Attempt:
    """Publisher and prefetcher of one trainer, without a policy that moves."""

    def __init__(self, directory: Path, updater: Updater, client: redis.Redis, staleness: int, url: str = "") -> None:
        self.publisher = Publisher(directory / "weights", updater, None, max(3, staleness + 2), url)
        queue = RunQueue(client, directory.name, "trainer")
        self.prefetcher = Prefetcher(queue, self.publisher, self._jobs, staleness, UPDATES)
        self._run_id, self._checkpoint = directory.name, directory / "checkpoint"

    def _jobs(self, update: int, weights: PublishedWeights) -> list[rollout_pb2.RolloutJob]:
        fields = {"weight_version": weights.version, "weight_path": weights.address}
        return [make_job(self._run_id, job_id=f"train/{update}/0", update=update, **fields)]

    def save(self, update: int) -> None:
        """Keep what a checkpoint before ``update`` has of published weights."""
        shutil.rmtree(self._checkpoint, ignore_errors=True)
        self._checkpoint.mkdir(parents=True)
        for name, file in self.prefetcher.files(update).items():
            shutil.copyfile(file, self._checkpoint / name)

    def resume(self, update: int) -> None:
        self.prefetcher.resume(update, self._checkpoint)

    def updates(self, first: int, after: int) -> list[rollout_pb2.RolloutJob]:
        """Go through updates, with a checkpoint after every fourth; the jobs of each, their weights looked at."""
        done = []
        for update in range(first, after):
            (job,) = self.prefetcher.jobs_of(update)
            assert_available(job, self._checkpoint.parent)
            done.append(job)
            if (update + 1) % EVERY == 0:
                self.save(update + 1)
        return done


def assert_available(job: rollout_pb2.RolloutJob, directory: Path) -> None:
    manifest = read_manifest(job.weight_path)
    assert manifest.version == job.weight_version
    with safe_open(fetch(job.weight_path, manifest, directory / "cache"), "pt") as file:
        assert file.keys()


@pytest.fixture(scope="module")
def updater() -> Updater:
    return make_updater()


@pytest.mark.parametrize("store", ["", "file", "memory"])
@pytest.mark.parametrize("staleness", [0, 1, 2, 3])
def test_an_attempt_that_died_past_its_checkpoint_leaves_the_next_all_it_needs(
    redis_client: redis.Redis, run_id: str, tmp_path: Path, updater: Updater, staleness: int, store: str
) -> None:
    directory = tmp_path / run_id
    url = {"": "", "file": f"file://{tmp_path}/store", "memory": f"memory://{uuid.uuid4().hex}"}[store]
    first = Attempt(directory, updater, redis_client, staleness, url)
    first.resume(0)
    before = first.updates(0, DEATH)
    for _ in range(2):
        again = Attempt(directory, updater, redis_client, staleness, url)
        again.resume(EVERY)
        assert again.updates(EVERY, DEATH) == before[EVERY:]
    assert again.updates(DEATH, UPDATES)[-1].weight_version == UPDATES - 1 - staleness
    if url:
        filesystem, path = fsspec.core.url_to_fs(url)
        assert f"v{UPDATES - 1:06d}.json" in {found.rpartition("/")[2] for found in filesystem.ls(path, detail=False)}


def test_a_run_that_is_resumed_with_more_staleness_saves_checkpoints(
    redis_client: redis.Redis, run_id: str, tmp_path: Path, updater: Updater
) -> None:
    directory = tmp_path / run_id
    Attempt(directory, updater, redis_client, 0).updates(0, DEATH)
    again = Attempt(directory, updater, redis_client, 3)
    again.resume(EVERY)
    again.updates(EVERY, EVERY + 1)
    again.save(EVERY + 1)
    assert [file.name for file in (directory / "checkpoint").iterdir()] == [f"behaviour-v{EVERY:06d}.safetensors"]


def test_leftovers_go_and_what_is_no_version_stays(tmp_path: Path, updater: Updater) -> None:
    publisher = Publisher(tmp_path, updater, None, 9)
    for version in range(3):
        publisher.publish(version)
    others = ["final.safetensors", "ema.safetensors", "vae.safetensors"]
    for name in [*others, "v000002.delta.safetensors", "v000003.safetensors.part"]:
        (tmp_path / name).touch()
    publisher.forget(2)
    versions = [f"v00000{version}.{kind}" for version in (0, 1) for kind in ("json", "safetensors")]
    assert sorted(found.name for found in tmp_path.iterdir()) == sorted([*versions, *others])
