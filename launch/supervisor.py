"""Child processes that live exactly as long as a ``with`` block.

One that dies early is an error at once, with the end of its log.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from varl.launch.waits import Wait

START_TIMEOUT_S = 900.0  # also on a machine that does other work on each of its cores
STOP_TIMEOUT_S = 60.0  # a job in hand, Redis that writes, on a machine that does other work
POLL_S = 0.05
TAIL_CHARS = 2000

Handler = Callable[[int, FrameType | None], Any] | int | None


class ChildDiedError(RuntimeError):
    """A child ended though nobody asked it to; the message holds its name, exit status and the end of its log."""


@dataclass(frozen=True)
class Child:
    """A running process: stdout and stderr go to ``<name>.out`` and ``<name>.log``."""

    name: str
    process: subprocess.Popen[bytes]
    out: Path
    log: Path

    def death(self) -> ChildDiedError:
        """The error to raise once the process has ended."""
        status = self.process.returncode
        how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with exit status {status}"
        return ChildDiedError(f"{self.name} {how}; the end of {self.log}:\n{_tail(self.log)}")


class Supervisor:
    """Starts children and stops them, last started first, at the end of the block.

    In the main thread a child's death interrupts whatever the block is doing (by SIGCHLD); elsewhere ``check`` finds
    it.
    """

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._children: list[Child] = []
        self._quiet = False  # no more interruptions: a death was reported, or the children are being stopped
        self._previous: Handler = None

    def __enter__(self) -> Supervisor:
        self._logs.mkdir(parents=True, exist_ok=True)
        if _in_main_thread():
            self._previous = signal.signal(signal.SIGCHLD, self._on_child)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._quiet = True
        with unhurried():
            self._stop()
        if _in_main_thread():
            signal.signal(signal.SIGCHLD, self._previous if self._previous is not None else signal.SIG_DFL)

    def start(self, name: str, command: Sequence[str], secrets: Mapping[str, str] | None = None) -> dict[str, Any]:
        """Start a process and wait for its ready line: one JSON object, the first line on its stdout.

        ``secrets`` join its environment, which other users cannot read as they can its arguments.

        Raises:
            ChildDiedError: it ended, or another child did.
            TimeoutError: no ready line came in time.
        """
        out, log = self._logs / f"{name}.out", self._logs / f"{name}.log"
        with (
            out.open("wb") as stdout,
            log.open("wb") as stderr,
            postponed(),
        ):  # else Ctrl-C could come between fork and bookkeeping
            process = subprocess.Popen(  # noqa: S603
                [*tied_to_this_process(), *command],
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,  # Ctrl-C is for this process, which then stops its children in order
                env={**os.environ, **(secrets or {})},
            )
            child = Child(name, process, out, log)
            self._children.append(child)
        return self._ready_line(child)

    def check(self) -> None:
        """Raise ChildDiedError if a child has ended."""
        for child in self._children:
            if child.process.poll() is not None:
                self._quiet = True
                raise child.death()

    def _ready_line(self, child: Child) -> dict[str, Any]:
        wait = Wait(f"{child.name} to be ready", START_TIMEOUT_S)
        while b"\n" not in (text := child.out.read_bytes()):
            self.check()
            wait.tell(f"its log is {child.log}")
            if wait.left_s <= 0:
                raise TimeoutError(
                    f"{child.name} was not ready after {START_TIMEOUT_S:g} s; "
                    f"the end of {child.log}:\n{_tail(child.log)}"
                )
            time.sleep(POLL_S)
        ready: dict[str, Any] = json.loads(text.splitlines()[0])
        return ready

    def _on_child(self, number: int, frame: FrameType | None) -> None:
        if not self._quiet:
            self.check()

    def _stop(self) -> None:
        for child in reversed(self._children):
            child.process.terminate()
            try:
                with Wait(f"{child.name} to end", STOP_TIMEOUT_S).told_aside():
                    child.process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                os.killpg(child.process.pid, signal.SIGKILL)
                child.process.wait()


def tied_to_this_process() -> list[str]:
    """Return a prefix by which Linux ends a command (SIGTERM) when the thread that started it ends.

    It does so even if that thread is killed outright. The prefix is empty where util-linux is missing. The command
    keeps its process id.
    """
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "TERM", "--"] if setpriv else []


@contextmanager
def unhurried() -> Iterator[None]:
    """Hold Ctrl-C and SIGTERM off, so that a second one cannot leave processes behind."""
    if not _in_main_thread():
        yield
        return
    previous = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def postponed(numbers: Sequence[signal.Signals] = (signal.SIGINT, signal.SIGTERM)) -> Iterator[None]:
    """Let signals, by default Ctrl-C and SIGTERM, wait until the block has ended."""
    if not _in_main_thread():
        yield
        return
    arrived: list[int] = []
    previous = {number: signal.signal(number, lambda got, frame: arrived.append(got)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        for got in arrived:  # also where the block has raised
            signal.raise_signal(got)


@contextmanager
def unhurried_exit() -> Iterator[ExitStack]:
    """An ExitStack that is unwound with Ctrl-C and SIGTERM held off."""
    stack = ExitStack()
    try:
        yield stack
    finally:
        with unhurried():
            stack.close()


@contextmanager
def sigterm_as_exit() -> Iterator[None]:
    """Make SIGTERM leave the block as SystemExit, so that everything is stopped as it is for Ctrl-C.

    Code that calls Python from C may turn that exit into an error of its own, as pydantic's serializers do; the block
    is left as SystemExit all the same.
    """
    told = False

    def leave(number: int, frame: FrameType | None) -> None:
        nonlocal told
        told = True
        raise SystemExit(128 + number)

    previous = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    except Exception as error:
        if told:
            raise SystemExit(128 + signal.SIGTERM) from error
        raise
    finally:
        signal.signal(signal.SIGTERM, previous)


def _tail(log: Path) -> str:
    return log.read_text(errors="replace")[-TAIL_CHARS:].strip() or "(empty)"


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
