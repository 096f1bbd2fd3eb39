"""A lock on a folder, for one process at a time; the kernel lets go of it when the process ends."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import cache
from pathlib import Path

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
UNSUPPORTED = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
MOST_BYTES = 4096  # of what another process wrote
_log = logging.getLogger("varl.lock")


class FolderHeldError(RuntimeError):
    """Another process works in the folder; the message says which."""


@dataclass(frozen=True)
class Holder:
    """Who holds something, for people to read. ``boot`` names the kernel that it runs under, "" where none is told."""

    host: str
    pid: int
    since: str
    boot: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}"


def this_process() -> Holder:
    """Describe this process, from now on."""
    since = datetime.now().astimezone().isoformat(timespec="seconds")
    return Holder(socket.gethostname(), os.getpid(), since, boot_id())


@cache
def boot_id() -> str:
    """The name of this boot of this machine's kernel, which all containers on it share; "" where there is none."""
    return BOOT_ID.read_text(encoding="ascii").strip() if BOOT_ID.exists() else ""


@contextmanager
def folder_lock(file: Path) -> Iterator[str]:
    """Hold the lock that ``file`` stands for; its folder is made if it is not there, and the file stays.

    Yields the file's identity under this kernel, or "" where the file system has no locks, which is logged: then
    nothing is held.

    Raises:
        FolderHeldError: another process holds it.
        OSError: the file cannot be opened.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        yield _locked(descriptor, file)
    finally:
        os.close(descriptor)


def _locked(descriptor: int, file: Path) -> str:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise FolderHeldError(f"{file.parent} is in use by {_holder(descriptor)} (lock {file.name})") from error
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        _log.warning("%s: this file system has no locks: nothing keeps a second process off", file)
        return ""
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(asdict(this_process())).encode(), 0)
    status = os.fstat(descriptor)
    return f"{status.st_dev}:{status.st_ino}"


def _holder(descriptor: int) -> str:
    try:
        return str(Holder(**json.loads(os.pread(descriptor, MOST_BYTES, 0))))
    except (ValueError, TypeError):  # it has written nothing yet
        return "another process"
