"""Standard streams that are closed, or that nobody reads any more: a process works on without them."""

from __future__ import annotations

import io
import os
import sys

NAMES = ("stdin", "stdout", "stderr")


class LastingWriter(io.TextIOWrapper):
    """A stream of text whose reader may go away: what is written after that goes nowhere."""

    def write(self, text: str) -> int:
        """Write, or drop, the whole text."""
        try:
            return super().write(text)
        except BrokenPipeError:
            self._drop()
            return len(text)

    def flush(self) -> None:
        """Hand on what is buffered, or drop it."""
        try:
            super().flush()
        except BrokenPipeError:
            self._drop()

    def _drop(self) -> None:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)
        super().flush()


def keep_streams() -> None:
    """Make this process independent of its standard streams; to be called before it opens anything.

    One that is closed is /dev/null from now on: else the next file or socket would get its number, and whatever a
    library prints would go there. Output whose reader goes away is dropped. Streams that somebody has put in their
    place, as tests do, are left as they are.
    """
    for number, name in enumerate(NAMES):
        closed = _closed(number)
        if closed:
            _open_nowhere(number)
        if getattr(sys, name) is None or (not closed and number and _is_own(name)):
            setattr(sys, name, _stream(number, name))


def _closed(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return True
    return False


def _open_nowhere(number: int) -> None:
    nowhere = os.open(os.devnull, os.O_RDWR)
    if nowhere != number:
        os.dup2(nowhere, number)
        os.close(nowhere)
    os.set_inheritable(number, True)


def _is_own(name: str) -> bool:
    """Whether the stream is the one that the interpreter began with."""
    return getattr(sys, name) is getattr(sys, f"__{name}__") and not isinstance(getattr(sys, name), LastingWriter)


def _stream(number: int, name: str) -> io.TextIOWrapper:
    old: io.TextIOWrapper | None = getattr(sys, name)
    encoding, errors = (old.encoding, old.errors) if old else ("utf-8", "backslashreplace")
    if number == 0:
        return io.TextIOWrapper(open(number, "rb", closefd=False), encoding)
    if old is not None:
        old.flush()
    buffer = open(number, "wb", closefd=False)  # noqa: SIM115
    at_once = old is not None and old.write_through
    return LastingWriter(buffer, encoding, errors, line_buffering=number == 2 or buffer.isatty(), write_through=at_once)
