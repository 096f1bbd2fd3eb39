"""A checkpoint's tensors in parts, some safetensors files a process, that any number of processes can read.

The layout is that of torch.distributed.checkpoint in Hugging Face's format: nothing in it is a pickle.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from varl.trainer.step.ema import WeightAverage
from varl.trainer.step.optimizer import put_state
from varl.trainer.step.update import Updater

SHARDS = "shards"  # folder within a checkpoint
FILE_BYTES = 4 * 2**30  # of all processes' parts together, after which the next file begins
STEP = "step"  # of an optimiser's state: a number, all else has the shape of its parameter


def write_shards(
    folder: Path, updater: Updater, average: WeightAverage | None, group: dist.ProcessGroup | None = None
) -> None:
    """Write what is trained into folder/shards, every process of ``group`` its part; all of them must call this.

    Only parameters that are trained are written: the others are those of the model's folder.

    Raises:
        OSError: a process could not write its part; all of them raise it.
    """
    tensors = _weights(updater, average) | _moments(updater.optimizer)
    writer = HuggingFaceStorageWriter(str(folder / SHARDS), _files(tensors), save_distributed=True)
    try:
        save(tensors, storage_writer=writer, process_group=group, no_dist=group is None)
    except CheckpointException as error:
        raise _disk_error(error) from error


def read_shards(folder: Path, updater: Updater, average: WeightAverage | None) -> None:
    """Put folder/shards in place, whatever the number of processes that wrote it; each reads what it holds itself.

    Raises:
        ValueError: it lacks what is to be put in place, or holds it in another shape.
    """
    reader = HuggingFaceStorageReader(str(folder / SHARDS))
    written: Mapping[str, Any] = reader.read_metadata().state_dict_metadata
    tensors, state = _weights(updater, average), _empty_moments(updater.optimizer, written)
    tensors |= {f"optimizer.{index}.{name}": value for index, own in state.items() for name, value in own.items()}
    wrong = [name for name, value in tensors.items() if name not in written or written[name].size != value.shape]
    if wrong:
        raise ValueError(f"{folder / SHARDS} does not fit this run: {', '.join(sorted(wrong)[:5])}")
    with warnings.catch_warnings():  # that each process reads on its own is meant
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        load(tensors, storage_reader=reader, no_dist=True)
    for own in state.values():
        own[STEP] = own[STEP].reshape(())
    put_state(updater.optimizer, state)


def _files(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """In which of a process's files, counted from 1, a tensor goes: a file is written from memory, as a second copy."""
    found, filled = dict[str, int](), 0
    for name, tensor in tensors.items():
        found[name] = 1 + filled // FILE_BYTES
        filled += tensor.nbytes
    return found


def _weights(updater: Updater, average: WeightAverage | None) -> dict[str, Tensor]:
    """Trained weights, the reference's where they move, and the averages."""
    modules = {"policy": updater.policy.module}
    if updater.moves_reference:
        modules["reference"] = updater.reference.module
    trained = {name for name, value in modules["policy"].named_parameters() if value.requires_grad}
    found = {
        f"{kind}.{name}": value.detach()
        for kind, module in modules.items()
        for name, value in module.named_parameters()
        if name in trained
    }
    return found | {f"average.{name}": value for name, value in (average.weights if average else {}).items()}


def _moments(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state as optimizer.<index of the parameter>.<name>; numbers have one element, to be sliced."""
    return {
        f"optimizer.{index}.{name}": value.reshape(1) if name == STEP else value
        for index, own in optimizer.state_dict()["state"].items()
        for name, value in own.items()
    }


def _empty_moments(optimizer: torch.optim.Optimizer, written: Mapping[str, Any]) -> dict[int, dict[str, Tensor]]:
    """Room for the state that was written, spread as the parameters are, in the types that it was written in."""
    parameters = [parameter.detach() for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key in written:
        kind, _, rest = key.partition(".")
        if kind == "optimizer":
            index, name = rest.split(".", 1)
            model, dtype = parameters[int(index)], written[key].properties.dtype
            state.setdefault(int(index), {})[name] = (
                torch.zeros(1) if name == STEP else torch.zeros_like(model, dtype=dtype)
            )
    return state


def _disk_error(error: CheckpointException) -> BaseException:
    """What went wrong in one of the processes, as an OSError where it was the disk."""
    causes = [wrapped[0] for wrapped in error.failures.values()]
    disk = next((cause for cause in causes if isinstance(cause, OSError)), None)
    return disk if disk is not None else RuntimeError(str(error))
