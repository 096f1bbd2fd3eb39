"""PyTorch's errors as the batcher wants them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from varl.services.hpsv3.engine import EngineUnavailableError
from varl.services.serving.batching.queue import FatalModelError

# After these the CUDA context is lost: every later call in the process fails as well.
_FATAL = (
    "illegal memory access",
    "illegal instruction",
    "misaligned address",
    "device-side assert",
    "uncorrectable ecc",
    "unspecified launch failure",
    "cublas_status_execution_failed",
    "hardware stack error",
)
_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")


@contextmanager
def device_faults() -> Iterator[None]:
    """Turn out-of-memory errors of a forward into MemoryError, and those of a lost device into FatalModelError."""
    try:
        yield
    except RuntimeError as error:
        text = str(error).lower()
        if any(mark in text for mark in _FATAL):
            raise FatalModelError(str(error)) from error
        if not isinstance(error, torch.OutOfMemoryError) and not any(mark in text for mark in _MEMORY):
            raise
        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # the next, smaller batch needs blocks of other sizes
        raise MemoryError(str(error)) from error


def check_device(name: str) -> None:
    """Raise EngineUnavailableError where this PyTorch has no device of that name, before anything is loaded for it."""
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:  # the latter from a PyTorch without CUDA
        raise EngineUnavailableError(f"device {name!r}: {error}") from error
