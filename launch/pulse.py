"""A sign of life for logs that nobody watches on a terminal: a line every fifteen seconds at least."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from varl.launch.beside import beside

QUIET_S = 15.0
LONGEST_CHARS = 200  # of a line that is repeated


def watched() -> bool:
    """Whether stderr is a terminal, where bars move."""
    return sys.stderr.isatty()


class _LastLine(logging.Handler):
    """Remembers what was logged last, and when."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.text, self.since, self.at = "", time.monotonic(), time.monotonic()

    def emit(self, record: logging.LogRecord) -> None:
        self.text, self.since = record.getMessage()[:LONGEST_CHARS], time.monotonic()
        self.at = self.since


@contextmanager
def pulse(say: Callable[[str], None], also: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Within the block, say what was logged last and how long ago whenever nothing was logged for 15 s.

    On a terminal nothing is said. ``also`` is called every 15 s in either case; both are called by another thread.
    """
    last, root = _LastLine(), logging.getLogger()
    root.addHandler(last)
    try:
        with beside("pulse", lambda over: _beat(last, over, say, also)):
            yield
    finally:
        root.removeHandler(last)


def _beat(last: _LastLine, over: threading.Event, say: Callable[[str], None], also: Callable[[], None]) -> None:
    due = time.monotonic() + QUIET_S
    while not over.wait(max(min(last.at + QUIET_S, due) - time.monotonic(), 0.0)):
        now = time.monotonic()
        if now >= due:
            also()
            due = now + QUIET_S
        if now >= last.at + QUIET_S:
            if not watched():
                text, since = last.text, last.since
                say(f"at work for {now - since:.0f} s since: {text or 'the start'}")
                last.text, last.since = text, since  # what was said here is no news
            last.at = now
