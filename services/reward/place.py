"""Where a reward of one's own stands: PATH.py:Class or package.module:Class."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib.util import find_spec
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


def check_place(text: str) -> None:
    """Look for the module and the class's name in it, without running the module; its parent packages are imported.

    Raises RewardNotFoundError, as far as that can tell: a class may still be no reward.
    """
    place = parse_place(text)
    source = place.file or _source(place.module)
    written = source.read_text(encoding="utf-8", errors="replace") if source else ""
    if source and place.name not in written and "import *" not in written:
        raise RewardNotFoundError(f"{text!r}: there is no {place.name} in {source}")


def search_working_directory() -> None:
    """Let imports find modules of the working directory, after all others, so that they shadow nothing."""
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))


def _source(module: str) -> Path | None:
    """The module's file, None for one that is not written in Python; raises RewardNotFoundError."""
    search_working_directory()
    try:
        spec = find_spec(module)
    except Exception as error:  # whatever a parent package raises while it is imported
        raise RewardNotFoundError(f"{module!r} cannot be imported: {error}") from error
    if spec is None:
        raise RewardNotFoundError(f"there is no module {module!r}")
    return Path(spec.origin) if spec.origin and spec.origin.endswith(".py") else None
