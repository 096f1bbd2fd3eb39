"""Checkpoints (all that a run needs to go on) and published weights (all that a worker needs to draw)."""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from trainer.averaging import WeightAverage
from trainer.jobs import PublishedWeights
from trainer.update import Updater

COMPLETE = "COMPLETE"  # written last: a directory without it is not a checkpoint


@dataclass(frozen=True)
class Progress:
    """How far a run is."""

    update: int  # updates done; also the version of the weights
    empty_updates: int  # updates in a row without any group


def save_checkpoint(directory: Path, progress: Progress, updater: Updater, average: WeightAverage | None, keep: int) -> Path:
    """Write directory/<update> (temporary folder, marker, rename), then delete all but the newest ``keep`` checkpoints."""
    final = directory / f"{progress.update:06d}"
    part = directory / f".{final.name}.part"
    for leftover in (part, final):
        shutil.rmtree(leftover, ignore_errors=True)
    part.mkdir(parents=True)
    updater.policy.save_weights(str(part / "policy.safetensors"))
    if updater.moves_reference:
        updater.reference.save_weights(str(part / "reference.safetensors"))
    groups = _save_optimizer(updater.optimizer, part / "optimizer.safetensors")
    save_file({"torch": torch.get_rng_state()}, part / "rng.safetensors")
    if average is not None:
        save_file({name: value.contiguous() for name, value in average.weights.items()}, part / "ema.safetensors")
    state = {"update": progress.update, "empty_updates": progress.empty_updates, "param_groups": groups}
    (part / "state.json").write_text(json.dumps(state), encoding="utf-8")
    _finish(part, final)
    for old in checkpoints(directory)[:-keep]:
        shutil.rmtree(old)
    return final


def checkpoints(directory: Path) -> list[Path]:
    """Whole checkpoints, oldest first."""
    return sorted(marker.parent for marker in directory.glob(f"[0-9]*/{COMPLETE}"))


def load_checkpoint(path: Path, updater: Updater, average: WeightAverage | None) -> Progress:
    """Put a checkpoint's state into policy, reference, optimiser, average and torch's random state.

    Raises:
        ValueError: the weights are those of another model.
        FileNotFoundError: the recipe averages weights or moves the reference, and the checkpoint's did not.
    """
    state = json.loads((path / "state.json").read_text(encoding="utf-8"))
    updater.policy.load_weights(str(path / "policy.safetensors"))
    if updater.moves_reference:
        updater.reference.load_weights(str(path / "reference.safetensors"))
    _load_optimizer(updater.optimizer, path / "optimizer.safetensors", state["param_groups"])
    torch.set_rng_state(load_file(path / "rng.safetensors")["torch"])
    if average is not None:
        average.load(load_file(path / "ema.safetensors"))
    return Progress(state["update"], state["empty_updates"])


def publish_weights(directory: Path, version: int, updater: Updater, keep: int) -> PublishedWeights:
    """Write directory/v<version>.safetensors for the workers and delete all but the newest ``keep`` versions."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"v{version:06d}.safetensors"
    updater.policy.save_weights(str(path))
    versions = [found for found in sorted(directory.glob("v*.safetensors")) if re.fullmatch(r"v\d{6,}\.safetensors", found.name)]
    for old in [found for found in versions if found != path][: max(len(versions) - keep, 0)]:
        old.unlink()
    return PublishedWeights(version, path)


def publish_average(directory: Path, version: int, updater: Updater, average: WeightAverage) -> PublishedWeights:
    """Write directory/ema.safetensors, the averages of this version; workers notice that the file is a new one."""
    path = directory / "ema.safetensors"
    with average.applied():
        updater.policy.save_weights(str(path))
    return PublishedWeights(version, path)


def keep_final(weights: PublishedWeights) -> Path:
    """Copy published weights to final.safetensors beside them, whole or not at all."""
    final = weights.path.with_name("final.safetensors")
    part = final.with_suffix(".part")
    shutil.copyfile(weights.path, part)
    return part.replace(final)


def _save_optimizer(optimizer: torch.optim.Optimizer, path: Path) -> list[dict[str, Any]]:
    """Write the tensors of an optimiser's state; returns its parameter groups, which are plain numbers."""
    state = optimizer.state_dict()
    tensors = {f"{index}.{name}": value.contiguous() for index, values in state["state"].items() for name, value in values.items()}
    save_file(tensors, path)
    groups: list[dict[str, Any]] = state["param_groups"]
    return groups


def _load_optimizer(optimizer: torch.optim.Optimizer, path: Path, groups: list[dict[str, Any]]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in load_file(path).items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _finish(part: Path, final: Path) -> None:
    for file in part.iterdir():
        _sync(file)
    (part / COMPLETE).touch()
    _sync(part)
    part.rename(final)
    _sync(final.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
