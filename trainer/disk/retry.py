"""Writes that a run cannot go on without: tried again while the disk, or the store of the weights, refuses them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from varl.launch.waits import Wait

T = TypeVar("T")
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 5.0
logger = logging.getLogger("trainer")


class StorageError(RuntimeError):
    """Something could not be written for as long as the recipe waits; the message says what, for how long and why."""


class Storage:
    """Patience with a disk that is full or a store that is unavailable; ``refusals`` counts the writes that failed."""

    def __init__(self, patience_s: float = 0.0) -> None:
        self._patience_s = patience_s
        self.refusals = 0

    def keep_trying(self, what: str, write: Callable[[], T]) -> T:
        """Return what ``write`` returns, calling it again after each OSError; it must be idempotent.

        Raises:
            StorageError: it was still refused when the patience was over.
        """
        begin, pause = time.monotonic(), FIRST_PAUSE_S
        while True:
            try:
                with Wait(f"{what} to be written", say=logger.info).told_aside():
                    return write()
            except OSError as error:
                self._refused(what, error, self._patience_s - (time.monotonic() - begin))
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_S)

    def _refused(self, what: str, error: OSError, left_s: float) -> None:
        self.refusals += 1
        if left_s <= 0:
            raise StorageError(
                f"{what} could not be written for {self._patience_s:g} s: {error}; once it can, --resume goes on"
            ) from error
        logger.error("%s could not be written, trying again for up to %.0f s: %s", what, left_s, error)
