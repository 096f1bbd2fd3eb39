"""Published weights: digests, atomic manifests, deltas, and workers that take nothing else."""

from __future__ import annotations

import json
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import pytest
import torch
from moto.server import ThreadedMotoServer
from safetensors.torch import load_file

import varl.policy.nextflow
from tests.support.trainer_rig import make_updater
from varl.policy.nextflow import NextFlowPolicy
from varl.services.rollout.model import Weights
from varl.trainer.disk.retry import Storage, StorageError
from varl.trainer.rollouts.jobs import PublishedWeights
from varl.trainer.rollouts.publish import Publisher
from varl.trainer.step.ema import WeightAverage
from varl.trainer.step.update import Updater
from varl.trajectories.weight_places import WeightPlaces
from varl.trajectories.weights import WeightsUnavailable, fetch, read_manifest


@pytest.fixture
def updater() -> Updater:
    return make_updater()


@pytest.fixture(params=["memory", "file", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "s3":
        request.getfixturevalue("s3_server")
    return f"file://{tmp_path}/store" if request.param == "file" else f"{request.param}://{uuid.uuid4().hex}/weights"


def move(updater: Updater, gains_only: bool = False) -> None:
    with torch.no_grad():
        trained = updater.policy.parameter_groups()
        for parameter in trained.gains + ([] if gains_only else trained.others):
            parameter.add_(0.5)


def names(url: str) -> set[str]:
    filesystem, path = fsspec.core.url_to_fs(url)
    return {entry.rpartition("/")[2] for entry in filesystem.ls(path, detail=False)}


def worker(tmp_path: Path) -> tuple[NextFlowPolicy, Weights]:
    model = varl.policy.nextflow.build_random(7)
    model.save_weights(str(tmp_path / "base.safetensors"))
    places = WeightPlaces.of(["/", "s3://", "memory://"])
    return model, Weights(model, tmp_path / "base.safetensors", tmp_path / "cache", places)


def assert_holds(model: NextFlowPolicy, published: PublishedWeights) -> None:
    expected, own = load_file(published.path), model.module.state_dict()
    assert expected.keys() == own.keys() and all(torch.equal(expected[name], own[name]) for name in own)


def test_versions_reach_a_worker_whole_or_as_what_has_changed(store: str, tmp_path: Path, updater: Updater) -> None:
    publisher, (model, weights) = Publisher(tmp_path / "w", updater, None, 2, store), worker(tmp_path)
    for version, gains_only in enumerate((False, True, True, False)):
        move(updater, gains_only)
        published = publisher.publish(version)
        assert published.manifest == f"{store}/v{version:06d}.json"
        assert weights.use(version, published.manifest) is None and weights.version == version
        assert_holds(model, published)
        manifest = read_manifest(published.manifest)
        assert (manifest.base is not None) == gains_only
    assert not (names(store) & {"v000001.json", "v000001.delta.safetensors"})
    delta = read_manifest(f"{store}/v000002.json")
    assert delta.base is not None and delta.base.manifest == "v000000.json"


def test_a_delta_holds_only_what_changed(store: str, tmp_path: Path, updater: Updater) -> None:
    publisher = Publisher(tmp_path / "w", updater, None, 2, store)
    publisher.publish(0)
    move(updater, gains_only=True)
    publisher.publish(1)
    filesystem, path = fsspec.core.url_to_fs(f"{store}/v000001.delta.safetensors")
    filesystem.get_file(path, str(tmp_path / "delta"))
    assert all("norm" in name for name in load_file(tmp_path / "delta"))
    assert (tmp_path / "delta").stat().st_size < (tmp_path / "w" / "v000001.safetensors").stat().st_size / 4


def test_what_earlier_trainers_left_at_the_url_goes(store: str, tmp_path: Path, updater: Updater) -> None:
    first = Publisher(tmp_path / "w", updater, None, 3, store)
    first.publish(0)
    first.publish_average(0)
    for version in range(1, 4):
        move(updater, gains_only=True)
        first.publish(version)
    filesystem, path = fsspec.core.url_to_fs(store)
    filesystem.pipe_file(f"{path}/vae.json", b"not a version")
    again = Publisher(tmp_path / "w", updater, None, 3, store)
    for version in range(1, 5):  # from an older checkpoint, and past where the first one died
        move(updater)
        again.publish(version)
    kept = {f"v00000{version}.{kind}" for version in (2, 3, 4) for kind in ("json", "safetensors")}
    assert names(store) - {"v000003.delta.safetensors", "v000002.delta.safetensors"} == kept | {"vae.json"}
    again.publish(5)
    again.publish(6)
    assert not {name for name in names(store) if name.startswith(("v000002", "v000003"))}


def test_a_worker_refuses_what_the_manifest_does_not_name(store: str, tmp_path: Path, updater: Updater) -> None:
    publisher, (_, weights) = Publisher(tmp_path / "w", updater, None, 3, store), worker(tmp_path)
    published = publisher.publish(0)
    filesystem, path = fsspec.core.url_to_fs(f"{store}/v000000.safetensors")
    data = filesystem.cat_file(path)
    filesystem.pipe_file(path, data[:-1] + bytes([data[-1] ^ 1]))
    problem = weights.use(0, published.manifest)
    assert problem is not None and "SHA-256" in problem
    assert "manifest is of version 0" in str(weights.use(5, published.manifest))
    assert "v000009.json" in str(weights.use(9, f"{store}/v000009.json"))
    publisher.publish(0)  # published again, it is taken
    assert weights.use(0, published.manifest) is None


def test_a_version_without_its_manifest_does_not_exist(
    tmp_path: Path, updater: Updater, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = f"file://{tmp_path}/store"

    def killed(url: str, manifest: object) -> None:
        if url.startswith("file://"):
            raise KeyboardInterrupt

    monkeypatch.setattr("varl.trajectories.weights.put_manifest", killed)
    with pytest.raises(KeyboardInterrupt):
        Publisher(tmp_path / "w", updater, None, 2, store).publish(0)
    assert names(store) == {"v000000.safetensors"}
    with pytest.raises(WeightsUnavailable, match=r"v000000\.json"):
        read_manifest(f"{store}/v000000.json")


def test_a_manifest_names_files_beside_it_and_digests_only(tmp_path: Path) -> None:
    good = {"version": 0, "file": "v0.safetensors", "sha256": "0" * 64}
    for key, value in {"file": "../../etc/passwd", "sha256": "x", "version": -1, "more": 1}.items():
        (tmp_path / "v0.json").write_text(json.dumps(good | {key: value}))
        with pytest.raises(WeightsUnavailable, match=key):
            read_manifest(str(tmp_path / "v0.json"))


def test_the_run_directory_keeps_the_newest_versions_and_those_of_a_resumed_run(
    tmp_path: Path, updater: Updater
) -> None:
    publisher = Publisher(tmp_path, updater, None, 2)
    for version in (0, 1, 2, 10):
        published = publisher.publish(version)
    assert published.address == str(tmp_path / "v000010.json")
    assert names(str(tmp_path)) == {f"v{version:06d}.{kind}" for version in (2, 10) for kind in ("json", "safetensors")}
    publisher.publish(1)  # after going back to an older checkpoint, its own version is not the one to go
    assert (tmp_path / "v000001.safetensors").exists()


def test_averages_are_published_as_such_and_the_policy_keeps_its_own(
    store: str, tmp_path: Path, updater: Updater
) -> None:
    average = WeightAverage(updater.policy.module, 0.5)
    publisher, (model, weights) = Publisher(tmp_path / "w", updater, average, 2, store), worker(tmp_path)
    own = publisher.publish(0)
    move(updater)
    published = publisher.publish_average(0)
    assert weights.use(0, published.address) is None
    assert_holds(model, PublishedWeights(0, own.path))  # the average has not moved
    assert not torch.equal(next(updater.policy.module.parameters()), next(model.module.parameters()))


def test_files_from_elsewhere_are_read_once_and_the_cache_is_bounded(tmp_path: Path, updater: Updater) -> None:
    store = f"memory://{uuid.uuid4().hex}/weights"
    publisher, cache = Publisher(tmp_path / "w", updater, None, 9, store), tmp_path / "cache"
    for version in range(7):
        move(updater)
        url = publisher.publish(version).manifest
        fetch(url, read_manifest(url), cache)
    assert len(list(cache.iterdir())) == 4
    manifest = read_manifest(url)
    filesystem, path = fsspec.core.url_to_fs(f"{store}/{manifest.file}")
    filesystem.rm_file(path)
    assert fetch(url, manifest, cache).parent == cache


def test_a_cached_file_that_is_damaged_is_read_anew(tmp_path: Path, updater: Updater) -> None:
    publisher, cache = (
        Publisher(tmp_path / "w", updater, None, 2, f"memory://{uuid.uuid4().hex}/weights"),
        tmp_path / "cache",
    )
    url = publisher.publish(0).manifest
    cached = fetch(url, read_manifest(url), cache)
    sound = cached.read_bytes()
    cached.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
    assert fetch(url, read_manifest(url), cache).read_bytes() == sound


def test_a_store_that_is_away_is_a_typed_failure(
    s3_server: ThreadedMotoServer, tmp_path: Path, updater: Updater
) -> None:
    publisher = Publisher(tmp_path / "w", updater, None, 2, f"s3://{uuid.uuid4().hex}/weights")
    published = publisher.publish(1)
    s3_server.stop()
    with pytest.raises(WeightsUnavailable, match=r"v000001\.json: EndpointConnectionError"):
        read_manifest(published.address)
    with pytest.raises(StorageError, match=r"weights 2 could not be written .*EndpointConnectionError"):
        publisher.publish(2)


def test_a_store_that_comes_back_is_waited_for(s3_server: ThreadedMotoServer, tmp_path: Path, updater: Updater) -> None:
    storage, (model, weights), bucket = Storage(240.0), worker(tmp_path), f"s3://{uuid.uuid4().hex}/weights"
    publisher = Publisher(tmp_path / "w", updater, None, 2, bucket, storage)
    publisher.publish(1)
    host, port = s3_server.get_host_and_port()
    s3_server.stop()
    move(updater)
    with ThreadPoolExecutor(1) as pool:
        published = pool.submit(publisher.publish, 2)
        while not storage.refusals and not published.done():
            time.sleep(0.02)
        again = ThreadedMotoServer(host, port, verbose=False)
        again.start()
        assert weights.use(2, published.result().manifest) is None
    assert_holds(model, published.result())
    assert storage.refusals >= 1
    again.stop()
