"""Checkpoints: all that a run needs to go on exactly as if it had never stopped."""

from __future__ import annotations

import json
import logging
import random
import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from varl.policy.tensor_files import save_tensors
from varl.trainer.disk.atomic import COMPLETE, damage, remove_sealed, seal
from varl.trainer.parallel.shards import SHARDS, read_shards
from varl.trainer.step.ema import WeightAverage
from varl.trainer.step.optimizer import put_state, require_same_parameters
from varl.trainer.step.spread import spread_like
from varl.trainer.step.update import Updater

logger = logging.getLogger("trainer")
STATE = "state.json"


@dataclass(frozen=True)
class Progress:
    """How far a run is."""

    update: int  # updates done; also the version of the weights, and the place on the learning rate's schedule
    empty_updates: int  # updates in a row without any group


@dataclass(frozen=True)
class Restored:
    """A checkpoint whose state has been put in place; notes: what it was saved with."""

    path: Path
    progress: Progress
    notes: Mapping[str, Any]


def save_checkpoint(
    directory: Path,
    progress: Progress,
    updater: Updater,
    average: WeightAverage | None,
    keep: int,
    notes: Mapping[str, Any] | None = None,
    protect: Collection[int] = (),
    files: Mapping[str, Path] | None = None,
    write: Callable[[Path], None] | None = None,
) -> Path:
    """Write directory/<update>, whole or not at all, then delete older checkpoints.

    The newest ``keep`` checkpoints and the protected updates stay.

    notes: JSON for whoever resumes (``Restored.notes``). files: more files to keep, by their name in the checkpoint.
    write: writes the tensors of updater and average into a folder, other than as ``write_whole`` does.

    Raises:
        OSError: the disk is full or gone; earlier checkpoints are as they were.
    """
    final = directory / f"{progress.update:06d}"
    part = directory / f".{final.name}.part"
    remove_sealed(final)
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    if write is None:
        write_whole(part, updater, average)
    else:
        write(part)
    _write_state(part, progress, updater, notes or {})
    for name, source in (files or {}).items():
        shutil.copyfile(source, part / name)
    seal(part, final)
    for old in checkpoints(directory)[:-keep]:
        if int(old.name) not in protect:
            remove_sealed(old)
    return final


def write_whole(part: Path, updater: Updater, average: WeightAverage | None) -> None:
    """Write policy, reference where it moves, optimiser and average, each as one file."""
    updater.policy.save_weights(str(part / "policy.safetensors"))
    if updater.moves_reference:
        updater.reference.save_weights(str(part / "reference.safetensors"))
    _save_optimizer(updater.optimizer, part / "optimizer.safetensors")
    if average is not None:
        save_tensors({name: value.contiguous() for name, value in average.weights.items()}, part / "ema.safetensors")


def _write_state(part: Path, progress: Progress, updater: Updater, notes: Mapping[str, Any]) -> None:
    save_tensors(_torch_random(), part / "rng.safetensors")
    groups = updater.optimizer.state_dict()["param_groups"]  # plain numbers
    state = {"update": progress.update, "empty_updates": progress.empty_updates, "param_groups": groups, "notes": notes}
    (part / STATE).write_text(json.dumps(state | {"random": _plain_random()}), encoding="utf-8")


def checkpoints(directory: Path) -> list[Path]:
    """Marked checkpoints, oldest first."""
    return sorted(marker.parent for marker in directory.glob(f"[0-9]*/{COMPLETE}"))


def newest_checkpoint(directory: Path) -> Path | None:
    """The newest checkpoint whose files are those that were sealed.

    Damaged ones are named in the log and passed over.
    """
    for path in reversed(checkpoints(directory)):
        problem = damage(path)
        if problem is None:
            return path
        logger.error("checkpoint %s is damaged and skipped: %s", path, problem)
    return None


def sweep(directory: Path) -> None:
    """Delete what a crash left unfinished: folders without a mark."""
    for folder in directory.glob("*"):
        if folder.is_dir() and not (folder / COMPLETE).exists():
            shutil.rmtree(folder)


def load_checkpoint(path: Path, updater: Updater, average: WeightAverage | None) -> Restored:
    """Put a checkpoint's state into policy, reference, optimiser, average and random states.

    The random states are those of torch, Python and numpy. The checkpoint may be that of another number of processes;
    all that train now must load it together.

    Raises:
        ValueError: the weights are those of another model, or other parameters were trained.
        FileNotFoundError: the recipe averages weights or moves the reference, and the checkpoint's did not.
    """
    state = json.loads((path / STATE).read_text(encoding="utf-8"))
    require_same_parameters(updater.optimizer, state["param_groups"])
    if (path / SHARDS).is_dir():
        read_shards(path, updater, average)
    else:
        _read_whole(path, updater, average)
    _restore_random(load_file(path / "rng.safetensors"), state["random"])
    return Restored(path, Progress(state["update"], state["empty_updates"]), state["notes"])


def _read_whole(path: Path, updater: Updater, average: WeightAverage | None) -> None:
    updater.policy.load_weights(str(path / "policy.safetensors"))
    if updater.moves_reference:
        updater.reference.load_weights(str(path / "reference.safetensors"))
    _load_optimizer(updater.optimizer, path / "optimizer.safetensors")
    if average is not None:
        average.load(load_file(path / "ema.safetensors"))


def _torch_random() -> dict[str, Tensor]:
    states = {"torch": torch.get_rng_state()}
    return states | {
        f"cuda{index}": state
        for index, state in enumerate(torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [])
    }


def _plain_random() -> dict[str, Any]:
    name, keys, *rest = np.random.get_state(legacy=True)
    return {"python": random.getstate(), "numpy": [name, np.asarray(keys).tolist(), *rest]}


def _restore_random(tensors: Mapping[str, Tensor], plain: Mapping[str, Any]) -> None:
    torch.set_rng_state(tensors["torch"])
    for index in range(torch.cuda.device_count()):  # more or fewer than when it was written, it may be
        if f"cuda{index}" in tensors:
            torch.cuda.set_rng_state(tensors[f"cuda{index}"], index)
    version, keys, gauss = plain["python"]
    random.setstate((version, tuple(keys), gauss))
    np.random.set_state(tuple(plain["numpy"]))


def _save_optimizer(optimizer: torch.optim.Optimizer, path: Path) -> None:
    """Write the tensors of an optimiser's state as <index of the parameter>.<name>."""
    tensors = {
        f"{index}.{name}": value.contiguous()
        for index, values in optimizer.state_dict()["state"].items()
        for name, value in values.items()
    }
    save_tensors(tensors, path)


def _load_optimizer(optimizer: torch.optim.Optimizer, path: Path) -> None:
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in load_file(path).items():
        index, name = key.split(".", 1)
        model = parameters[int(index)]
        alike = value.shape == model.shape  # all but the number of steps
        state.setdefault(int(index), {})[name] = spread_like(value, model) if alike else value
    put_state(optimizer, state)


class TrainedState:
    """What a run trains, and how it is written to a checkpoint and read again; here by one process, whole."""

    def __init__(self, updater: Updater, average: WeightAverage | None) -> None:
        self.updater, self.average = updater, average

    def write(self, part: Path) -> None:
        """Write all tensors into a folder. Raises OSError where the disk refuses."""
        write_whole(part, self.updater, self.average)

    def load(self, path: Path) -> Restored:
        """Put a checkpoint in place; raises as ``load_checkpoint`` does."""
        restored = load_checkpoint(path, self.updater, self.average)
        self.updater.norms = restored.notes.get("grad_norms", {})
        return restored
