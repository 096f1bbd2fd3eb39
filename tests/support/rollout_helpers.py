"""A reward that sees the real pixels, behind a real gRPC server, and rollout workers as real processes."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from PIL import Image

from tests.support.paths import PYTHONPATH, ROOT
from varl.trajectories.codec import job_of
from varl.trajectories.queue import RunQueue
from varl.v1 import reward_pb2, reward_pb2_grpc, rollout_pb2, trajectory_pb2

POISON = "POISON"  # in a prompt: the second sample of every request is an error
HOLD = "HOLD"  # in a prompt: no answer before ``release`` is set
WAIT_S = 240.0  # below the limit of pytest-timeout, so that the assertion speaks


def brightness(pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> float:
    """The test reward: mean pixel value in [0, 1]."""
    return float(pixels.astype(np.float64).mean() / 255)


class BrightnessReward(reward_pb2_grpc.RewardServiceServicer):
    """Scores what the PNG shows; the one word of each image is the size of the file, its box the whole image."""

    def __init__(self) -> None:
        self.release = threading.Event()
        self.holding = threading.Event()  # set once a held request has arrived
        self.requests: list[int] = []  # samples of each request

    def Score(self, request: reward_pb2.ScoreRequest, context: grpc.ServicerContext) -> reward_pb2.ScoreResponse:  # noqa: N802
        self.requests.append(len(request.samples))
        if any(HOLD in sample.prompt for sample in request.samples):
            self.holding.set()
            self.release.wait(WAIT_S)
        results = [_result(index, sample) for index, sample in enumerate(request.samples)]
        model = reward_pb2.Model(engine="numpy", name="brightness", revision="1")
        return reward_pb2.ScoreResponse(reward="bright", model=model, results=results)


def _result(index: int, sample: reward_pb2.Sample) -> reward_pb2.Result:
    if POISON in sample.prompt and index == 1:
        error = reward_pb2.ScoreError(code=reward_pb2.ERROR_CODE_ENGINE_FAILED, detail="poisoned")
        return reward_pb2.Result(id=sample.id, error=error)
    pixels = np.asarray(Image.open(io.BytesIO(sample.image), formats=["PNG"]))
    height, width = pixels.shape[:2]
    word = reward_pb2.Word(
        text=str(len(sample.image)), confidence=1, polygon=[0, 0, width, 0, width, height, 0, height]
    )
    return reward_pb2.Result(id=sample.id, score=reward_pb2.Score(value=brightness(pixels), words=[word]))


@dataclass
class RunningReward:
    servicer: BrightnessReward
    health: Any
    target: str

    def set_serving(self, serving: bool) -> None:
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        self.health.set("varl.v1.RewardService", status)


@contextmanager
def running_reward() -> Iterator[RunningReward]:
    server = grpc.server(ThreadPoolExecutor(8))
    servicer, health_servicer = BrightnessReward(), health.HealthServicer()
    reward_pb2_grpc.add_RewardServiceServicer_to_server(servicer, server)
    health_pb2_grpc.add_HealthServicer_to_server(health_servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    reward = RunningReward(servicer, health_servicer, f"127.0.0.1:{port}")
    reward.set_serving(True)
    server.start()
    yield reward
    servicer.release.set()
    server.stop(None)


@dataclass
class RolloutProcess:
    process: subprocess.Popen[str]
    ports: dict[str, Any]

    @property
    def grpc_target(self) -> str:
        return f"127.0.0.1:{self.ports['grpc_port']}"

    def metrics(self) -> dict[str, float]:
        """All series by their whole names."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.ports['metrics_port']}/metrics") as answer:
            lines = answer.read().decode().splitlines()
        return {
            name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        }

    def metric(self, name: str) -> float:
        """One series; 0 where there is none yet."""
        return self.metrics().get(name, 0.0)


@contextmanager
def rollout_process(
    redis_url: str, run_id: str, model_dir: Path, rewards: dict[str, str], *flags: str, prefix: Sequence[str] = ()
) -> Iterator[RolloutProcess]:
    """A ready worker; killed at the end if it still runs."""
    process = start_rollout(redis_url, run_id, model_dir, rewards, *flags, prefix=prefix)
    try:
        yield RolloutProcess(process, wait_until_ready(process))
    finally:
        process.kill()
        process.communicate()


def start_rollout(
    redis_url: str, run_id: str, model_dir: Path, rewards: dict[str, str], *flags: str, prefix: Sequence[str] = ()
) -> subprocess.Popen[str]:
    """``prefix``: a command that ends by becoming the worker."""
    command = [*prefix, sys.executable, "-m", "varl.services.rollout", "--redis-url", redis_url, "--run-id", run_id]
    command += ["--model-dir", str(model_dir)]
    command += [part for name, target in rewards.items() for part in ("--reward", f"{name}={target}")]
    command += ["--grpc-port", "0", "--metrics-port", "0", *flags]
    environment = os.environ | {"PYTHONPATH": PYTHONPATH}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)


def wait_until_ready(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, f"the worker ended with {process.wait()} before it was ready"
    event: dict[str, Any] = json.loads(line)
    assert event["event"] == "ready"
    return event


def receive_all(queue: RunQueue, job_ids: Sequence[str]) -> dict[str, trajectory_pb2.Trajectory]:
    """Wait for one trajectory of each job; fails on any other or a second one."""
    found: dict[str, trajectory_pb2.Trajectory] = {}
    deadline = time.monotonic() + WAIT_S
    while len(found) < len(job_ids):
        assert time.monotonic() < deadline, f"no trajectory of {sorted(set(job_ids) - set(found))}"
        for delivery in queue.receive(16, 500):
            job_id = job_of(delivery.message).job_id
            assert job_id in job_ids and job_id not in found
            found[job_id] = delivery.message
            queue.acknowledge([delivery.entry_id])
    return found


def run_jobs(queue: RunQueue, jobs: Sequence[rollout_pb2.RolloutJob]) -> list[trajectory_pb2.Trajectory]:
    queue.submit(jobs)
    found = receive_all(queue, [job.job_id for job in jobs])
    return [found[job.job_id] for job in jobs]
