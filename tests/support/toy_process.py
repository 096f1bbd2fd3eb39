"""The toy reward service of the benchmarks as a process: everything real but the model."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tests.support.ocr_builders import ENVIRONMENT
from tests.support.paths import ROOT


@dataclass
class ToyProcess:
    """Where it listens; ``ended``: the test ended it."""

    http_port: int
    grpc_port: int
    process: subprocess.Popen[str]
    ended: bool = False

    @property
    def http(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def grpc(self) -> str:
        return f"127.0.0.1:{self.grpc_port}"


def start_toy(*flags: str, stderr: int | None = subprocess.PIPE) -> subprocess.Popen[str]:
    """The process, which may not be ready yet."""
    command = [sys.executable, "-m", "benchmarks.serving.toy_service", *flags]
    return subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=stderr, text=True)


@contextmanager
def toy_service(*flags: str) -> Iterator[ToyProcess]:
    """A service that is ready; it must still run at the end."""
    process = start_toy("--http-port", "0", "--grpc-port", "0", *flags, stderr=None)
    assert process.stdout is not None
    try:
        ready = json.loads(process.stdout.readline())
        service = ToyProcess(ready["http_port"], ready["grpc_port"], process)
        yield service
        assert service.ended or process.poll() is None, "the service crashed"
    finally:
        process.kill()
        process.communicate()
