"""Tensors and weights to and from files; a disk that refuses them is an OSError as everywhere else."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
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


def save_module(module: nn.Module, path: Path, dtype: torch.dtype | None) -> None:
    """Write a module's state, as ``save_state`` does."""
    save_state(module.state_dict(), path, dtype)


def save_state(state: Mapping[str, Tensor], path: Path, dtype: torch.dtype | None) -> None:
    """Write tensors as ``dtype`` or in their own, whole or not at all; raises OSError as ``save_tensors`` does."""
    written = {name: value.detach().to("cpu", dtype or value.dtype).contiguous() for name, value in state.items()}
    part = path.with_name(path.name + ".part")
    save_tensors(written, part)
    part.replace(path)


def check_state(module: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Raise ValueError, with the first few names, where a state's names, shapes or kinds of numbers differ."""
    check_names(module.state_dict(), state, source)


def check_names(own: Mapping[str, Tensor], state: Mapping[str, Tensor], source: str) -> None:
    """The same, compared with the tensors that a model takes."""
    shapes = [name for name in own if name in state and own[name].shape != state[name].shape]
    # Types of one kind are converted, but integers would be read as weights that nobody trained.
    kinds = [name for name in own if name in state and _kind(own[name]) != _kind(state[name])]
    wrong = {
        "lacks": own.keys() - state.keys(),
        "also holds": state.keys() - own.keys(),
        "has other shapes of": shapes,
        "has other kinds of numbers in": kinds,
    }
    told = [f"{what} {_first(names)}" for what, names in wrong.items() if names]
    if told:
        raise ValueError(f"{source} does not fit this model: it {'; '.join(told)}")


def _kind(tensor: Tensor) -> tuple[bool, bool]:
    return tensor.is_floating_point(), tensor.is_complex()


def _first(names: Collection[str]) -> str:
    return ", ".join(sorted(names)[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
