"""Servers as processes on a core of their own, and what they use of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path

from varl.launch.ports import reserve_port

ROOT = Path(__file__).resolve().parent.parent.parent
SERVER_CORE, CLIENT_CORE = min(os.sched_getaffinity(0)), max(os.sched_getaffinity(0))
PATIENCE = 120.0  # seconds that a server may take to come up
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Server:
    """A running server: where it listens, and the session that all its processes belong to."""

    http_port: int
    grpc_port: int
    session: int

    def cpu_seconds(self) -> float:
        """Processor time of all its processes so far, ended children included."""
        return sum(sum(map(int, fields[11:15])) for fields in self._processes()) / _TICKS

    def rss_mib(self) -> float:
        """Memory that its processes hold, shared pages counted for each."""
        return sum(int(fields[21]) for fields in self._processes()) * os.sysconf("SC_PAGE_SIZE") / 2**20

    def _processes(self) -> Iterator[list[str]]:
        """The fields of /proc/<pid>/stat from the third on, for each process of the session."""
        for path in Path("/proc").glob("[0-9]*/stat"):
            with suppress(FileNotFoundError, ProcessLookupError):
                fields = path.read_text().rpartition(")")[2].split()
                if int(fields[3]) == self.session:
                    yield fields


@contextmanager
def running(module: str, *flags: str) -> Iterator[Server]:
    """``python -m module`` on the server's core, once it is ready to answer."""
    http_port, grpc_port = reserve_port(), reserve_port()
    ports = ["--http-port", str(http_port), "--grpc-port", str(grpc_port)]
    process = start([sys.executable, "-m", module, *ports, *flags])
    try:
        _until(process, lambda: _ready(http_port))
        yield Server(http_port, grpc_port, process.pid)
    finally:
        kill(process)


def start(command: list[str], stdout: int = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
    """A process in a session of its own on the server's core."""
    path = os.pathsep.join((str(ROOT / "src"), str(ROOT)))
    with on_core(SERVER_CORE):
        environment = {**os.environ, "PYTHONPATH": path}
        return subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=stdout, start_new_session=True
        )


def kill(process: subprocess.Popen[bytes]) -> None:
    """End a process that was started here, and its children."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@contextmanager
def on_core(core: int) -> Iterator[None]:
    """Keep the calling thread, and whatever it starts meanwhile, on one core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _until(process: subprocess.Popen[bytes], condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        if process.poll() is not None or time.monotonic() > end:
            raise SystemExit(f"did not come up: {process.args!r}")
        time.sleep(0.1)


def _ready(port: int) -> bool:
    """Ours say so at /readyz, LitServe at /health; the others answer as soon as they listen."""
    return any(_status(port, path) == 200 for path in ("/readyz", "/health"))


def _status(port: int, path: str) -> int:
    connection = HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except OSError:
        return 0
    finally:
        connection.close()
