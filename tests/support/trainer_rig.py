"""Everything that a training run needs, small and real.

A model directory, prompt files, a recipe, rollout workers that score pixels.
"""

from __future__ import annotations

import asyncio
import io
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import varl.policy.nextflow
from varl.services.rollout.generation import Limits
from varl.services.rollout.metrics import Metrics
from varl.services.rollout.model import ModelThread, Weights
from varl.services.rollout.scoring import BatchScorer
from varl.services.rollout.worker import Parts, Worker, WorkerSettings
from varl.trainer.disk.metrics_log import METRICS_FILE
from varl.trainer.recipe.config import Recipe
from varl.trainer.recipe.sections import ObjectiveSettings, OptimizerSettings
from varl.trainer.step.update import Updater
from varl.trajectories.queue import RunQueue, connect
from varl.v1 import reward_pb2

PROMPTS = [f"a red sign that says '{word}'" for word in ("BREAD", "OPEN", "MILK", "EXIT", "SALE")]


class BrightnessReward:
    """The mean brightness of the left half of the image, 0 to 1, with that half as its one box.

    Prompts named in ``refused`` fail.
    """

    def __init__(self, refused: Sequence[str] = ()) -> None:
        self.refused = refused
        self.asked: list[str] = []

    async def score(self, samples: Sequence[reward_pb2.Sample], formula: str = "") -> reward_pb2.ScoreResponse:
        self.asked += [sample.prompt for sample in samples]
        return reward_pb2.ScoreResponse(
            reward="brightness", model=MODEL, results=[self._result(sample) for sample in samples]
        )

    def _result(self, sample: reward_pb2.Sample) -> reward_pb2.Result:
        if sample.prompt in self.refused:
            error = reward_pb2.ScoreError(code=reward_pb2.ERROR_CODE_ENGINE_FAILED, detail="refused by the test")
            return reward_pb2.Result(id=sample.id, error=error)
        with Image.open(io.BytesIO(sample.image)) as image:
            pixels = np.asarray(image.convert("L"), dtype=np.float64) / 255
        height, width = pixels.shape
        box = reward_pb2.Word(text="LEFT", confidence=1, polygon=[0, 0, width / 2, 0, width / 2, height, 0, height])
        score = reward_pb2.Score(value=float(pixels[:, : width // 2].mean()), words=[box])
        return reward_pb2.Result(id=sample.id, score=score)


MODEL = reward_pb2.Model(engine="pixels", name="left-half", revision="1")


@contextmanager
def rollout_workers(
    redis_url: str, run_id: str, model_dir: Path, reward: BrightnessReward, count: int = 1, name: str = "brightness"
) -> Iterator[None]:
    """Real rollout workers, each with its own copy of the model, on one event loop in a thread of its own.

    ``name`` is the reward's.
    """
    loop, stop = asyncio.new_event_loop(), asyncio.Event()
    thread = threading.Thread(
        target=loop.run_until_complete,
        args=(_work(redis_url, run_id, model_dir, {name: reward}, count, stop),),
        daemon=True,
    )
    thread.start()
    try:
        yield
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(60)
        loop.close()


async def _work(
    redis_url: str,
    run_id: str,
    model_dir: Path,
    rewards: Mapping[str, BrightnessReward],
    count: int,
    stop: asyncio.Event,
) -> None:
    workers = [_worker(redis_url, run_id, model_dir, rewards, f"worker-{index}", stop) for index in range(count)]
    await asyncio.gather(*(worker.run() for worker in workers))


def _worker(
    redis_url: str,
    run_id: str,
    model_dir: Path,
    rewards: Mapping[str, BrightnessReward],
    name: str,
    stop: asyncio.Event,
) -> Worker:
    model = varl.policy.nextflow.load(model_dir)
    parts = Parts(
        policy=model,
        weights=Weights(model, model_dir / "policy.safetensors", model_dir / "cache"),
        model=ModelThread(1),
        scorer=BatchScorer(rewards, 4),
        queue=RunQueue(connect(redis_url), run_id, name),
        metrics=Metrics(),
    )
    return Worker(
        parts,
        WorkerSettings(
            name, concurrency=2, min_idle_ms=30_000, limits=Limits(sequences=64, decode=64, prompt_chars=1000)
        ),
        stop,
    )


def make_model(directory: Path, seed: int = 0) -> Path:
    """A small random model in a directory of its own."""
    directory.mkdir(parents=True, exist_ok=True)
    varl.policy.nextflow.build_random(seed).save(directory)
    return directory


def make_updater() -> Updater:
    """Policy and reference of the same random weights, default settings."""
    one, other = varl.policy.nextflow.build_random(0), varl.policy.nextflow.build_random(0)
    return Updater(one, other, ObjectiveSettings(), OptimizerSettings())


def make_recipe(directory: Path, name: str, **sections: dict[str, Any]) -> Recipe:
    """A recipe of a few seconds in ``directory``; keyword arguments update its sections."""
    prompts = directory / "prompts.jsonl"
    prompts.write_text(
        "".join(json.dumps({"prompt": p, "target_words": [p.split("'")[1]]}) + "\n" for p in PROMPTS), encoding="utf-8"
    )
    settings: dict[str, dict[str, Any]] = {
        "run": {"name": name, "dir": directory / "runs", "updates": 4, "threads": 1},
        "model": {"dir": directory / "model"},
        "prompts": {"train": prompts, "held_out": prompts},
        "rollout": {
            "prompts_per_update": 3,
            "group_size": 8,
            "rewards": [{"name": "brightness"}],
            "group_timeout_s": 60,
        },
        "optimizer": {"lr": 3e-3, "weight_decay": 0.0},
        "checkpoint": {"every": 2},
        "metrics": {"samples_every": 0, "diagnostics_every": 0},
    }
    for section, values in sections.items():
        settings.setdefault(section, {}).update(values)
    return Recipe.model_validate(settings)


def read_metrics(run: Path) -> list[dict[str, float]]:
    """The lines of a run's metrics file."""
    return [json.loads(line) for line in (run / METRICS_FILE).read_text(encoding="utf-8").splitlines()]


def column(run: Path, name: str) -> list[float]:
    """One metric of all updates that have it."""
    return [line[name] for line in read_metrics(run) if name in line]


VANILLA: dict[str, Any] = {"stages": "full", "alpha": 0.0, "mask_propagation": "off", "kl_beta": 0.0}
METHOD: dict[str, Any] = {
    "stages": "vmr",
    "split_scale": 3,
    "alpha": 0.6,
    "mask_propagation": "chained",
    "kl_beta": 0.001,
}
