"""The example of docs/own_reward.md, copied into a folder outside the checkout.

Served, and trained on with its recipe.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.support.ocr_builders import png
from tests.support.paths import PYTHONPATH, ROOT
from varl.v1 import reward_pb2, reward_pb2_grpc

MARK = "VARL_TEST_MARK"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for file in (ROOT / "examples").iterdir():
        if file.is_file():
            shutil.copy(file, tmp_path)
    return tmp_path


def start(folder: Path, module: str, *arguments: str, mark: str = "") -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": PYTHONPATH, "OMP_WAIT_POLICY": "PASSIVE", "REDIS_URL": "", MARK: mark}
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.fixture
def ports(folder: Path) -> Iterator[dict[str, Any]]:
    place = "brightness.py:Brightness"
    process = start(folder, "varl.services.reward", place, "--http-port", "0", "--grpc-port", "0", "--compat-pickle")
    assert process.stdout is not None
    try:
        yield json.loads(process.stdout.readline())
    finally:
        process.terminate()
        _, err = process.communicate(timeout=60)
        assert process.returncode == 0, err


def grey(level: int) -> bytes:
    return png(np.full((16, 24, 3), level, np.uint8))


def test_it_is_served_with_all_that_a_service_has(ports: dict[str, Any]) -> None:
    levels = [0, 51, 102, 255]
    with httpx.Client(base_url=f"http://127.0.0.1:{ports['http_port']}", timeout=60) as http:
        samples = [{"id": str(n), "prompt": "a wall", "image": base64.b64encode(grey(n)).decode()} for n in levels]
        samples[1] |= {"metadata": {"tone": "dark"}}  # type: ignore[dict-item]
        broken = {"id": "bad", "prompt": "a wall", "image": base64.b64encode(b"no image").decode()}
        deep = {**samples[0], "id": "deep", "metadata": {"a": [[[[[[[[]]]]]]]]}}
        answer = http.post("/v1/score", json={"samples": [*samples, broken, deep]}).raise_for_status().json()
        assert [result.get("value") for result in answer["results"]] == pytest.approx([0, 0.2, 0.4, 1.0, None, None])
        assert [result["error"]["code"] for result in answer["results"][4:]] == ["bad_image", "invalid_field"]
        assert "metadata" in answer["results"][5]["error"]["detail"]
        assert answer["model"]["name"] == "brightness:Brightness"
        head = json.dumps({"samples": [{"id": "a", "prompt": "p", "metadata": {"x": 1}}]}).encode()
        form = {"request": (None, head), "a": ("a", grey(51))}
        assert http.post("/v1/score", files=form).raise_for_status().json()["results"][0]["value"] == pytest.approx(0.2)
        assert http.get("/readyz").json() == {"status": "ready"}
        peer = {"prompt": "a wall", "response": samples[2]["image"]}
        assert http.post("/compat/slime/score", json=peer).raise_for_status().json() == pytest.approx(0.4)
        metrics = http.get("/metrics").text
    assert 'varl_samples_total{reward="brightness"} 6.0' in metrics
    forwards = next(
        line
        for line in metrics.splitlines()
        if line.startswith('varl_executions_total{result="ok",reward="brightness"}')
    )
    assert (
        float(forwards.rpartition(" ")[2]) <= 7
    )  # with the golden sample; samples that come together are scored together
    over_grpc(ports["grpc_port"], levels)


def over_grpc(port: int, levels: Sequence[int]) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        health = health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(service="varl.v1.RewardService")
        )
        assert health.status == health_pb2.HealthCheckResponse.SERVING
        samples = [reward_pb2.Sample(id=str(n), prompt="a wall", image=grey(n)) for n in levels]
        samples[0].metadata.update({"tone": "dark"})
        nan = reward_pb2.Sample(id="nan", prompt="a wall", image=grey(0))
        nan.metadata.update({"a": float("nan")})
        answer = reward_pb2_grpc.RewardServiceStub(channel).Score(reward_pb2.ScoreRequest(samples=[*samples, nan]))
        assert [result.score.value for result in answer.results[:4]] == pytest.approx([n / 255 for n in levels])
        assert answer.results[4].error.code == reward_pb2.ERROR_CODE_INVALID_FIELD
        assert answer.results[4].error.detail.startswith("metadata: ")


@pytest.mark.parametrize(
    "arguments", [[], ["nowhere.py:X"], ["brightness.py:Birghtness"], ["brightness.py:Brightness", "--nonsense", "1"]]
)
def test_bad_arguments_end_with_2(folder: Path, arguments: list[str]) -> None:
    process = start(folder, "varl.services.reward", *arguments)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert err
    assert "Traceback" not in err


def commands(mark: str) -> set[str]:
    """Modules that processes with this mark run."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={mark}".encode() in (process / "environ").read_bytes():
                found |= {
                    part
                    for part in (process / "cmdline").read_bytes().decode().split("\0")
                    if part.startswith("varl.services.")
                }
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # it ended meanwhile
    return found


def test_its_recipe_trains_on_it_and_on_nothing_else(folder: Path) -> None:
    recipe, mark = folder / "brightness.toml", uuid.uuid4().hex
    text = recipe.read_text().replace("updates = 24", "updates = 2").replace("group_size = 8", "group_size = 2")
    recipe.write_text(text.replace("every = 4", "every = 2").replace("prompts = 15", "prompts = 2"))
    process = start(
        folder, "varl.studies.demo", "--recipe", "brightness.toml", "--run-dir", "runs/own", "--prompts", "3", mark=mark
    )
    assert process.stdout is not None
    assert any("rollout worker: gRPC" in line for line in process.stdout)
    assert commands(mark) == {"varl.services.reward", "varl.services.rollout"}
    out, err = process.communicate(timeout=280)
    assert process.returncode == 0, err
    found = json.loads((folder / "runs" / "own" / "eval.json").read_text())
    for side in ("before", "after"):
        assert 0 < found[side]["rewards"]["brightness"] < 1
        assert found[side]["rewards_se"]["brightness"] > 0
        assert "word_accuracy" not in found[side]
    assert "brightness: 0." in out
    rows = [json.loads(line) for line in (folder / "runs" / "own" / "metrics.jsonl").read_text().splitlines()]
    assert "eval/reward/brightness" in rows[0]
    assert commands(mark) == set()


def test_a_reward_that_runs_already_is_trained_on_where_it_is(folder: Path, ports: dict[str, Any]) -> None:
    recipe, mark = folder / "brightness.toml", uuid.uuid4().hex
    text = recipe.read_text().replace("updates = 24", "updates = 1").replace("group_size = 8", "group_size = 2")
    address = f'address = "127.0.0.1:{ports["grpc_port"]}"'
    recipe.write_text(text.replace('serve = "brightness.py:Brightness"', address).replace("every = 4", "every = 0"))
    process = start(
        folder, "varl.studies.demo", "--recipe", "brightness.toml", "--run-dir", "runs/far", "--prompts", "2", mark=mark
    )
    assert process.stdout is not None
    assert any("rollout worker: gRPC" in line for line in process.stdout)
    assert commands(mark) == {"varl.services.rollout"}
    _, err = process.communicate(timeout=280)
    assert process.returncode == 0, err
    found = json.loads((folder / "runs" / "far" / "eval.json").read_text())
    assert 0 < found["after"]["rewards"]["brightness"] < 1
