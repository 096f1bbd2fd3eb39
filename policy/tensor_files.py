"""Writing tensors to files, so that a disk that refuses them is an OSError as everywhere else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor


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
