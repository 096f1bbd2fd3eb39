"""Disks without room: a small one that is filled to the last page, or a process that may not write large files."""

from __future__ import annotations

import resource
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

SMALL = 100_000  # bytes: enough for metrics and logs, too little for the weights of the tests


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let this process write no file above ``size`` bytes.

    What a full disk does, without taking the disk from others.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextmanager
def small_disk(folder: Path, mebibytes: int) -> Iterator[bool]:
    """A disk of its own at ``folder`` for the length of the block; False where this user may not mount one."""
    folder.mkdir(parents=True)
    mount = shutil.which("mount")
    command = [str(mount), "-t", "tmpfs", "-o", f"size={mebibytes}m", "tmpfs", str(folder)]
    mounted = mount is not None and subprocess.run(command, capture_output=True).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


class Scarce(Protocol):
    """A way to take the room from a process, and to give it back."""

    def fill(self, pid: int) -> None: ...

    def clear(self, pid: int) -> None: ...


class Filled:
    """A disk that somebody else's file fills: every write that needs a page meets ENOSPC."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "somebody-elses-file"

    def fill(self, pid: int) -> None:
        with self._file.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                return

    def clear(self, pid: int) -> None:
        self._file.unlink()


class Limited:
    """A limit on the size of each file of the process: large ones meet EFBIG."""

    def fill(self, pid: int) -> None:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (SMALL, resource.RLIM_INFINITY))

    def clear(self, pid: int) -> None:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
