"""Where processes of the harness live: their folder, their mark, and the commands that start them."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from chaos.part import Part
from varl.launch.private_redis import server_binary
from varl.launch.supervisor import tied_to_this_process

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
        for folder in (self.out / "redis", self.out / "standby", self.temporary):
            folder.mkdir(parents=True, exist_ok=True)

    @property
    def environment(self) -> dict[str, str]:
        """What processes of this home find in their environment beside the rest."""
        return {
            MARK: self.mark,
            "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}",
            "TMPDIR": str(self.temporary),
            "PYTHONUNBUFFERED": "1",
        }

    async def run(self, command: list[str]) -> tuple[int, str]:
        """Run a process to its end; its exit status and what it said."""
        process = await asyncio.create_subprocess_exec(
            *tied_to_this_process(),
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={**os.environ, **self.environment},
            cwd=ROOT,
        )
        try:
            said, _ = await process.communicate()
        except asyncio.CancelledError:
            process.kill()
            raise
        return process.returncode or 0, said.decode(errors="replace")

    def part(self, name: str, command: list[str], ready: str = READY_LINE, final: tuple[int, ...] = ()) -> Part:
        """A process of this home, not started yet; its log is logs/<name>.log."""
        return Part(name, command, ready, self.out / "logs" / f"{name}.log", self.environment, ROOT, final)

    def redis_command(self, port: int, folder: str = "redis") -> list[str]:
        """A Redis on the loopback whose append-only file lies in ``folder``."""
        options = {
            "port": str(port),
            "bind": "127.0.0.1",
            "dir": str(self.out / folder),
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
