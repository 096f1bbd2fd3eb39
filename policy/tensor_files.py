"""Tensors and weights to and from files; a disk that refuses them is an OSError as everywhere else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors by name, which must be contiguous, as safetensors.

    Raises:
        OSError: the disk is full or gone, which safetensors itself reports as an error of its own.
    """
    try:
        save_file(dict(tensors), path)
    except SafetensorError as error:
        path.unlink(missing_ok=True)  # what was written of it takes the room that is lacking
        raise OSError(f"{path}: {error}") from error


def save_module(module: nn.Module, path: Path, dtype: torch.dtype) -> None:
    """Write a module's state as ``dtype``, whole or not at all; raises OSError as ``save_tensors`` does."""
    state = {name: value.detach().to("cpu", dtype).contiguous() for name, value in module.state_dict().items()}
    part = path.with_name(path.name + ".part")
    save_tensors(state, part)
    part.replace(path)


def load_module(module: nn.Module, path: Path, device: torch.device) -> None:
    """Replace a module's state by that of a safetensors file, converted to the module's dtype.

    Raises:
        ValueError: names or shapes differ from the module's.
        OSError: the file cannot be read.
    """
    loaded = load_file(path, device=str(device))
    check_state(module, loaded, str(path))
    module.load_state_dict(loaded)


def assign_module(module: nn.Module, state: dict[str, Tensor], source: str, dtype: torch.dtype) -> None:
    """Make these tensors, converted to ``dtype``, a module's state; it may have been built on the meta device.

    No copy is made of a tensor that has the dtype already. ``state`` is emptied, so that each tensor goes when it has
    been converted. source: what an error names.

    Raises:
        ValueError: names or shapes differ from the module's.
    """
    check_state(module, state, source)
    converted = {name: state.pop(name).to(dtype) for name in list(state)}
    module.load_state_dict(converted, assign=True)


def check_state(module: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Raise ValueError, with the first few names, where a state's names or shapes differ from the module's."""
    own = module.state_dict()
    wrong = sorted(own.keys() ^ state.keys()) or sorted(name for name in own if own[name].shape != state[name].shape)
    if wrong:
        raise ValueError(f"{source} does not fit this model: {', '.join(wrong[:5])}")
