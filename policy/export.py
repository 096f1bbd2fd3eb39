"""Policies that can be written in the format that their model was published in."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, runtime_checkable

import torch


@runtime_checkable
class Exportable(Protocol):
    """A policy that has such a format."""

    def export(self, folder: Path, dtype: torch.dtype | None = None) -> str:
        """Write the model, adapters merged, as it was published; how it is loaded again, in Markdown.

        dtype: of the trained weights; None: their own. Raises OSError where the folder cannot be written.
        """
