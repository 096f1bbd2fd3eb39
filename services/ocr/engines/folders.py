"""Folders that PaddleOCR and the model cache write to, also for a user without a home or with one that is read-only."""

from __future__ import annotations

import logging
import os
import tempfile
from pathlib import Path
from threading import Lock

PADDLEX_HOME = "PADDLE_PDX_CACHE_HOME"
_log = logging.getLogger("varl.ocr")
_lock = Lock()
_scratch: list[tempfile.TemporaryDirectory[str]] = []  # removed with the process


def home() -> Path | None:
    """The user's home folder, None where it cannot be told."""
    try:
        return Path.home()
    except RuntimeError:  # no HOME, and no entry for this user id
        return None


def writable(folder: Path) -> bool:
    """Whether files can be made in a folder, which is made if it is not there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def scratch() -> Path:
    """A temporary folder of this process; raises OSError where there is no place for one either."""
    with _lock:
        if not _scratch:
            _scratch.append(tempfile.TemporaryDirectory(prefix="varl-ocr-"))
            _log.warning("no home folder to write to: caches are in %s until the service ends", _scratch[0].name)
        return Path(_scratch[0].name)


def give_paddlex_a_home() -> None:
    """Name a folder that paddlex can write to, before it is imported: it makes its own at import, or fails."""
    own = home()
    if PADDLEX_HOME not in os.environ and (own is None or not writable(own / ".paddlex")):
        os.environ[PADDLEX_HOME] = str(scratch() / "paddlex")
