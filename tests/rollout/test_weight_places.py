"""Where a job's weight path may lead a worker, and how much of what lies there it reads."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import fsspec
import pytest
from pydantic import ValidationError

import varl.policy.nextflow
from varl.services.rollout.model import Weights
from varl.services.rollout.settings import RolloutServiceSettings
from varl.trajectories import weight_places
from varl.trajectories.weight_files import MOST_MANIFEST_BYTES, Base, Manifest, file_digest
from varl.trajectories.weight_places import WeightPlaces
from varl.trajectories.weights import WeightsUnavailable, read_manifest


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    varl.policy.nextflow.build_random(7).save(folder)
    return folder


@pytest.fixture
def runs(tmp_path: Path, model_dir: Path) -> Path:
    """A folder of published weights: version 3, whole."""
    folder = tmp_path / "runs"
    folder.mkdir()
    publish(folder, model_dir)
    return folder


def publish(folder: Path, model_dir: Path) -> Path:
    file = folder / "v3.safetensors"
    shutil.copyfile(model_dir / "policy.safetensors", file)
    manifest = folder / "v3.json"
    manifest.write_text(Manifest(version=3, file=file.name, sha256=file_digest(file)).model_dump_json())
    return manifest


@pytest.fixture
def weights(model_dir: Path, runs: Path, tmp_path: Path) -> Weights:
    model, places = varl.policy.nextflow.load(model_dir), WeightPlaces.of([str(runs), "memory://allowed/runs"])
    return Weights(model, model_dir / "policy.safetensors", tmp_path / "cache", places)


def refused(weights: Weights, path: str, why: str) -> None:
    problem = weights.use(3, path)
    assert problem is not None and why in problem, problem


def test_weights_below_the_prefix_and_the_models_own_are_taken(weights: Weights, runs: Path, model_dir: Path) -> None:
    assert weights.use(3, str(runs / "v3.json")) is None
    assert weights.use(3, str(runs / "v3.safetensors")) is None
    assert weights.use(0, "") is None
    assert weights.use(0, str(model_dir / "policy.safetensors")) is None


def test_objects_below_a_stores_prefix_are_taken_and_no_others(weights: Weights, runs: Path) -> None:
    store = fsspec.filesystem("memory")
    for place in ("allowed/runs", "allowed/runs-of-others", "other"):
        for name in ("v3.json", "v3.safetensors"):
            store.pipe_file(f"/{place}/{name}", (runs / name).read_bytes())
    assert weights.use(3, "memory://allowed/runs/v3.json") is None
    for path in ("other/v3.json", "allowed/runs-of-others/v3.json", "allowed/runs/../../other/v3.json"):
        refused(weights, f"memory://{path}", "weights_prefix")


def test_what_lies_elsewhere_is_refused(weights: Weights, runs: Path, tmp_path: Path, model_dir: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    manifest = publish(elsewhere, model_dir)
    (runs / "link.json").symlink_to(manifest)
    for path in (manifest, elsewhere / "v3.safetensors", runs / ".." / "elsewhere" / "v3.json", runs / "link.json"):
        refused(weights, str(path), "weights_prefix")
    (runs / "v3.safetensors").unlink()
    (runs / "v3.safetensors").symlink_to(elsewhere / "v3.safetensors")
    refused(weights, str(runs / "v3.json"), "weights_prefix")


@pytest.fixture
def web() -> Iterator[tuple[str, list[str]]]:
    """An HTTP server on the loopback, and the paths that it was asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *arguments: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    "url",
    [
        "http://{host}/v3.json",
        "HTTP://{host}/v3.json",
        "http://{host}/v3.safetensors",
        "simplecache::http://{host}/v3.json",
        "zip://v3.json::http://{host}/a.zip",
        "filecache::file://{runs}/v3.json",
        "github://a:b@main/v3.json",
    ],
)
def test_no_url_of_a_jobs_choice_is_followed(
    weights: Weights, runs: Path, web: tuple[str, list[str]], url: str
) -> None:
    host, asked = web
    refused(weights, url.format(host=host, runs=runs), "")
    assert asked == []


def test_pipes_devices_and_folders_are_refused_without_waiting(weights: Weights, runs: Path) -> None:
    for suffix in (".json", ".safetensors"):
        os.mkfifo(runs / f"pipe{suffix}")
        (runs / f"folder{suffix}").mkdir()
        for name in ("pipe", "folder"):
            refused(weights, str(runs / f"{name}{suffix}"), "no regular file")
    (runs / "v3.safetensors").unlink()
    os.mkfifo(runs / "v3.safetensors")
    refused(weights, str(runs / "v3.json"), "no regular file")
    everywhere = Weights(weights._policy, weights._base, runs / "cache", WeightPlaces())
    (runs / "zeros.json").symlink_to("/dev/zero")
    refused(everywhere, str(runs / "zeros.json"), "no regular file")


def test_a_manifest_is_read_no_further_than_any_is_long(weights: Weights, runs: Path) -> None:
    with (runs / "v3.json").open("ab") as file:
        file.truncate(2**33)  # sparse
    refused(weights, str(runs / "v3.json"), f"more than {MOST_MANIFEST_BYTES} bytes")
    fsspec.filesystem("memory").pipe_file("/allowed/runs/large.json", b" " * (MOST_MANIFEST_BYTES + 1))
    refused(weights, "memory://allowed/runs/large.json", f"at most {MOST_MANIFEST_BYTES} bytes")


def test_what_is_no_manifest_is_not_quoted(weights: Weights, runs: Path) -> None:
    (runs / "secret.json").write_text(json.dumps({"version": "the-password", "file": "the-password"}))
    problem = weights.use(3, str(runs / "secret.json"))
    assert problem is not None and "sha256: Field required" in problem and "the-password" not in problem


@pytest.mark.parametrize("name", ["../v3.json", "..", "http://a/v3.json", "a::b", ".hidden", "a/b"])
def test_a_delta_names_a_base_beside_it(runs: Path, name: str) -> None:
    with pytest.raises(ValidationError, match="manifest"):
        Base(manifest=name, sha256="0" * 64)
    (runs / "d.json").write_text(json.dumps({"version": 4, "file": name, "sha256": "0" * 64}))
    with pytest.raises(WeightsUnavailable, match="file"):
        read_manifest(str(runs / "d.json"))


def test_headers_are_bounded(weights: Weights, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = runs / "v3.safetensors"
    sound = file.read_bytes()
    for length in (len(sound), 2**63):
        file.write_bytes(length.to_bytes(8, "little") + sound[8:])
        refused(weights, str(file), "safetensors header")
    file.write_bytes(sound)
    monkeypatch.setattr(weight_places, "MOST_HEADER_BYTES", 10)
    refused(weights, str(runs / "v3.json"), "safetensors header")


@pytest.mark.parametrize("prefix", ["runs", "file://runs", "zip://a::s3://b", ""])
def test_a_prefix_that_is_no_place_is_refused_at_the_start(prefix: str, model_dir: Path) -> None:
    given = {"redis_url": "redis://a", "run_id": "a", "model_dir": model_dir, "reward": {"ocr": "a:1"}}
    with pytest.raises(ValidationError, match="weights_prefix"):
        RolloutServiceSettings.model_validate(given | {"weights_prefix": (prefix,)})
