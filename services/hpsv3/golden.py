"""The golden sample: a picture that anyone can render again, and what a checkpoint should say about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from varl.services.hpsv3.engine import Preference
from varl.services.serving.scoring import Pixels

FILE = "golden.json"  # beside the checkpoint
PROMPT = "a smooth colour gradient"
SIDE = 256  # pixels
# In mu and in log sigma. float32 kernels differ in rounding alone; bfloat16 keeps three digits of every intermediate
# number.
TOLERANCE: Mapping[str, float] = {"float32": 1e-3, "bfloat16": 0.1}


class Golden(BaseModel):
    """Contents of FILE: the score of picture ``image`` for ``prompt``, in float32."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    prompt: str
    image: Literal["gradient", "checkerboard"]
    mu: float
    log_sigma: float

    def difference(self, found: Preference, dtype: str) -> str:
        """How a score differs by more than ``dtype`` explains; "" if it does not."""
        tolerance = TOLERANCE[dtype]
        apart = max(abs(self.mu - found.mu), abs(self.log_sigma - found.log_sigma))
        if apart <= tolerance:
            return ""
        ours, theirs = (f"mu {each.mu:.4f}, log sigma {each.log_sigma:.4f}" for each in (found, self))
        return f"{ours}; {FILE} has {theirs}, and {tolerance:g} is the most that they may be apart"


def read_golden(folder: Path) -> Golden | None:
    """Contents of FILE in ``folder``; None where it is absent. Raises ValueError where it is not what it should be."""
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        return Golden.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise ValueError(f"{path}: {error}") from error


def _gradient() -> Pixels:
    """Red grows to the right, green downwards, blue to the left."""
    ramp = np.arange(SIDE, dtype=np.uint8)
    across = np.broadcast_to(ramp, (SIDE, SIDE))
    return np.stack((across, across.T, 255 - across), axis=-1)


def _checkerboard() -> Pixels:
    """Black and white squares of 32 pixels."""
    cell = np.arange(SIDE) // 32 % 2
    board = np.where(cell[:, None] == cell, 255, 0).astype(np.uint8)
    return np.repeat(board[:, :, None], 3, axis=2)


# Each uint8 [SIDE, SIDE, 3].
PICTURES: Mapping[str, Callable[[], Pixels]] = {"gradient": _gradient, "checkerboard": _checkerboard}
