"""Where a job's weight path may lead a worker, and how much of what lies there it reads."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

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


Header = dict[str, Any]


def _alike(header: Header, first: str, second: str) -> None:
    header[second] = header[first]


HEADERS: dict[str, Callable[[Header, str, str], object]] = {
    "two tensors on the same bytes": _alike,
    "bytes beyond the end": lambda header, first, second: header[second].update(data_offsets=[0, 2**60]),
    "a negative side": lambda header, first, second: header[first].update(shape=[-1]),
    "sides whose product overflows": lambda header, first, second: header[first].update(shape=[2**62, 2**62]),
    "numbers of an unknown type": lambda header, first, second: header[first].update(dtype="F3"),
    "integers in place of weights": lambda header, first, second: header[first].update(dtype="I32"),
    "a tensor without bytes": lambda header, first, second: header[first].pop("data_offsets"),
    "a tensor less": lambda header, first, second: header.pop(first),
}


@pytest.mark.parametrize("how", HEADERS)
def test_a_header_that_lies_is_refused_and_nothing_is_sampled(weights: Weights, runs: Path, how: str) -> None:
    file = runs / "v3.safetensors"
    sound = file.read_bytes()
    end = 8 + int.from_bytes(sound[:8], "little")
    header = json.loads(sound[8:end])
    HEADERS[how](header, *[name for name in header if name != "__metadata__"][:2])
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + sound[end:])
    refused(weights, str(file), "v3.safetensors")
    assert not weights.loaded
    assert weights.use(0, "") is None and weights.loaded


@pytest.mark.parametrize("content", [b"", b"\1\0", bytes(8), b"\4\0\0\0\0\0\0\0null", b"\2\0\0\0\0\0\0\0\xff\xfe"])
def test_what_is_no_safetensors_is_refused(weights: Weights, runs: Path, content: bytes) -> None:
    (runs / "v3.safetensors").write_bytes(content)
    refused(weights, str(runs / "v3.safetensors"), "v3.safetensors")


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("{runs}/loop.json", "leads back to itself"),
        ("{runs}/loop.safetensors", "leads back to itself"),
        ("file://host{runs}/v3.json", "FileNotFoundError"),
        ('data:,{{"version":3}}.json', ""),
        ("data:application/json;base64,e30=/a,b.json", "neither a path nor a URL of a store"),
        ("memory:/allowed/runs/v3.json", "FileNotFoundError"),
        ("memory://allowed/runs/%2E%2e/v3.json", "in code"),
        ("memory://allowed/runs/..%2Fv3.json", "in code"),
        ("memory://allowed/runs/..\\v3.json", "in code"),
        ("{runs}/\0.json", "null byte"),
        ("{runs}/\0.safetensors", "null byte"),
        ("a" * 5000 + ".json", "File name too long"),
        ("FILE:///etc/x.json", "weights_prefix"),
        ("\n.json", "FileNotFoundError"),
        ("\u202e.safetensors", "FileNotFoundError"),
    ],
)
def test_odd_paths_are_refused_as_values(weights: Weights, runs: Path, url: str, why: str) -> None:
    for suffix in (".json", ".safetensors"):
        (runs / f"loop{suffix}").symlink_to(f"loop{suffix}")
    refused(weights, url.format(runs=runs), why)


@pytest.mark.parametrize("base", ["itself", "the delta's own file"])
def test_a_delta_is_not_its_own_base(weights: Weights, runs: Path, base: str) -> None:
    digest = file_digest(runs / "v3.safetensors")
    below = Base(manifest="delta.json" if base == "itself" else "v3.json", sha256=digest)
    delta = Manifest(version=3, file="v3.safetensors", sha256=digest, base=below, tensors="1" * 64)
    (runs / "delta.json").write_text(delta.model_dump_json())
    refused(weights, str(runs / "delta.json"), "delta.json")


@pytest.mark.parametrize("prefix", ["runs", "file://runs", "zip://a::s3://b", ""])
def test_a_prefix_that_is_no_place_is_refused_at_the_start(prefix: str, model_dir: Path) -> None:
    given = {"redis_url": "redis://a", "run_id": "a", "model_dir": model_dir, "reward": {"ocr": "a:1"}}
    with pytest.raises(ValidationError, match="weights_prefix"):
        RolloutServiceSettings.model_validate(given | {"weights_prefix": (prefix,)})
