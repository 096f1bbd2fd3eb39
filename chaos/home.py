"""Where processes of the harness live: their folder, their mark, and the commands that start them."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from chaos.part import Part
from varl.launch.private_redis import server_binary

ROOT = Path(__file__).resolve().parent.parent
MARK = "VARL_CHAOS_RUN"  # in the environment of every process, so that none can be overlooked
READY_LINE = r'"event": "ready"'
REDIS_READY = "Ready to accept connections"


@dataclass(frozen=True)
class Home:
    """out: folder of all files. mark: unique text by which the processes are known."""

    out: Path
    mark: str

    @property
    def temporary(self) -> Path:
        """Where the processes put temporary files."""
        return self.out / "tmp"

    def make(self) -> None:
        """Make the folders."""
        for folder in (self.out / "redis", self.temporary):
            folder.mkdir(parents=True, exist_ok=True)

    def part(self, name: str, command: list[str], ready: str = READY_LINE, final: tuple[int, ...] = ()) -> Part:
        """A process of this home, not started yet; its log is logs/<name>.log."""
        environment = {
            MARK: self.mark,
            "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}",
            "TMPDIR": str(self.temporary),
            "PYTHONUNBUFFERED": "1",
        }
        return Part(name, command, ready, self.out / "logs" / f"{name}.log", environment, ROOT, final)

    def redis_command(self, port: int) -> list[str]:
        """A Redis on the loopback whose append-only file lies in redis/."""
        options = {
            "port": str(port),
            "bind": "127.0.0.1",
            "dir": str(self.out / "redis"),
            "appendonly": "yes",
            "appendfsync": "everysec",
        }
        options |= {"maxmemory-policy": "noeviction", "save": "", "daemonize": "no", "logfile": ""}
        return [server_binary(), *flags(options)]


def module(name: str, *arguments: str) -> list[str]:
    """``python -m name``, with this interpreter."""
    return [sys.executable, "-m", name, *arguments]


def flags(values: Mapping[str, object]) -> list[str]:
    """--key value of each."""
    return [part for name, value in values.items() for part in (f"--{name}", str(value))]
