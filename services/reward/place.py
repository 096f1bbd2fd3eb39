"""Where a reward of one's own stands: PATH.py:Class or package.module:Class."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from varl.launch.resources import find

SHAPE = "want PATH.py:Class or package.module:Class"


class RewardNotFoundError(ValueError):
    """There is no such reward; the message says what was looked for and what there is."""


@dataclass(frozen=True)
class Place:
    """Where a reward stands: a Python file or an importable module, and the class in it."""

    module: str
    name: str

    @property
    def file(self) -> Path | None:
        """The file, where the module is named by one."""
        return Path(self.module) if self.module.endswith(".py") else None


def parse_place(text: str) -> Place:
    """Split "where:Class"; raises RewardNotFoundError for another shape and for a file that is not there."""
    module, colon, name = text.rpartition(":")
    if not colon or not module or not name.isidentifier():
        raise RewardNotFoundError(f"{text!r}: {SHAPE}")
    place = Place(str(find(module)) if module.endswith(".py") else module, name)
    if place.file is None and not all(part.isidentifier() for part in module.split(".")):
        raise RewardNotFoundError(
            f"{text!r}: {SHAPE}; {module!r} is neither a file that ends in .py nor an import path"
        )
    if place.file is not None and not place.file.is_file():
        raise RewardNotFoundError(f"{text!r}: there is no file {module}")
    return place
