"""A process of the run under the harness's hand: started, watched line by line, started again when it dies."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from chaos.line_log import LineLog
from varl.launch.supervisor import tied_to_this_process

POLL_S = 0.005
PAUSE_S = 0.3  # from a death to the next start
STOP_TIMEOUT_S = 30.0
LONGEST_LINE = 2**22


@dataclass(frozen=True)
class Exit:
    """One end of a process. status: as subprocess has it, negative for a signal.

    ``expected``: the harness brought it about.
    """

    part: str
    status: int
    expected: bool
    last_words: str
    traceback: bool


class Part:
    """Keeps a command running until it is told to stop or the command ends with a status of ``final``.

    The command has the same arguments each time. ready: pattern of the line by which the process says that it works.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        ready: str,
        log: Path,
        environment: Mapping[str, str],
        cwd: Path,
        final: Collection[int] = (),
    ) -> None:
        self.name, self.log = name, LineLog(log)
        self._command, self._ready, self._environment, self._cwd, self._final = command, ready, environment, cwd, final
        self._process: asyncio.subprocess.Process | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._expected = self._stopping = False
        self._since = 0  # first line of the process at hand
        self.exits: list[Exit] = []
        self.starts: list[float] = []  # time.monotonic()
        self.finished = asyncio.Event()  # it ended for good

    @property
    def pid(self) -> int:
        """Process id. Raises ProcessLookupError where it is down at the moment."""
        if self._process is None:
            raise ProcessLookupError(f"{self.name} is down")
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether there is a process at the moment."""
        return self._process is not None

    async def up(self) -> int:
        """Process id, once there is a process."""
        while self._process is None:  # noqa: ASYNC110
            await asyncio.sleep(POLL_S)
        return self._process.pid

    def start(self) -> None:
        """Have it kept running from now on."""
        self._keeping = asyncio.create_task(self._keep())

    async def ready(self, since: int | None = None) -> None:
        """Return once the process at hand has said that it works; with ``since``, once any has from that line on."""
        await self.log.wait(self._ready, self._since if since is None else since)

    async def strike(self, number: signal.Signals) -> None:
        """End the process by a signal, and return once it has ended."""
        pid, deaths = await self.up(), len(self.exits)
        self._expected = True
        os.kill(pid, number)
        while len(self.exits) == deaths:  # noqa: ASYNC110
            await asyncio.sleep(POLL_S)

    @contextlib.asynccontextmanager
    async def stopped(self) -> AsyncIterator[None]:
        """Hold the process by SIGSTOP."""
        pid = await self.up()
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    async def stop(self) -> None:
        """End it for good: SIGTERM, and SIGKILL for one that does not hear."""
        self._stopping = self._expected = True
        if self._keeping is None:
            return
        self._signal(signal.SIGTERM)
        done, _ = await asyncio.wait({self._keeping}, timeout=STOP_TIMEOUT_S)
        if not done:
            self._signal(signal.SIGKILL)
            await self._keeping
        self.log.close()

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)

    async def _keep(self) -> None:
        while not self._stopping:
            status = await self._live()
            if status in self._final:
                break
            await asyncio.sleep(0 if self._stopping else PAUSE_S)
        self.finished.set()

    async def _live(self) -> int:
        self._since = self.log.end()
        process = await asyncio.create_subprocess_exec(
            *tied_to_this_process(),
            *self._command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, **self._environment},
            cwd=self._cwd,
            limit=LONGEST_LINE,
        )
        self._process = process
        self.starts.append(time.monotonic())
        assert process.stdout is not None  # noqa: S101
        while line := await process.stdout.readline():
            self.log.add(line.decode(errors="replace").rstrip("\n").rpartition("\r")[2].strip())
        status = await process.wait()
        self._process = None
        self._note(status)
        return status

    def _note(self, status: int) -> None:
        lines = [line for line in self.log.lines[self._since :] if line]
        traceback = any(line.startswith("Traceback (most recent call last)") for line in lines)
        self.exits.append(Exit(self.name, status, self._expected, lines[-1] if lines else "", traceback))
        self._expected = self._stopping
