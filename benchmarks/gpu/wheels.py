"""Packages from a folder of wheels, for a machine without network; nothing is installed."""

from __future__ import annotations

import sys
import tempfile
import zipfile
from pathlib import Path


def unpacked(folder: Path) -> list[str]:
    """A folder to put on Python's path with what the wheels hold that fit this Python; none where there are none.

    Wheels are zip files of the very files that lie in site-packages.
    """
    wheels = [wheel for wheel in sorted(folder.glob("*.whl")) if _fits(wheel)]
    if not wheels:
        return []
    target = Path(tempfile.mkdtemp(prefix="varl-wheels-"))
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as file:
            file.extractall(target)
    return [str(target)]


def _fits(wheel: Path) -> bool:
    """Whether a wheel is for this Python, by its name: name-version-python-abi-platform."""
    python, abi = wheel.stem.split("-")[-3:-1]
    own = f"cp{sys.version_info[0]}{sys.version_info[1]}"
    return "py3" in python.split(".") or own in python.split(".") or abi == "abi3"
