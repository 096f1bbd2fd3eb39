"""Metrics of a run: one JSON object a line in metrics.jsonl, TensorBoard events, and whatever else is given them."""

from __future__ import annotations

import errno
import json
import logging
import math
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from torch.utils.tensorboard.writer import SummaryWriter

from varl.trainer.disk.atomic import write_durably
from varl.trainer.disk.retry import Storage

logger = logging.getLogger("trainer")
METRICS_FILE = "metrics.jsonl"


class Sink(Protocol):
    """Takes a copy of the metrics; where it cannot, it says so in the log and raises nothing."""

    def add(self, update: int, metrics: Mapping[str, float]) -> None:
        """Add the metrics of an update."""

    def close(self) -> None:
        """Write or send what is left."""


class RunLog:
    """Writes the metrics of a run directory from update ``first`` on; ``more`` get them as TensorBoard does.

    Whatever an earlier, longer attempt wrote after it is dropped.
    ``storage`` (none: without patience) is asked for room for a line; its StorageError is raised where there is none.
    """

    def __init__(self, directory: Path, first: int, storage: Storage | None = None, more: Sequence[Sink] = ()) -> None:
        path = directory / METRICS_FILE
        kept = [line for line in read_lines(path) if json.loads(line)["update"] < first]
        write_durably(path, "".join(f"{line}\n" for line in kept))
        self._lines = path.open("ab", buffering=0)
        self._copies: list[Sink] = [_Events(directory / "tb"), *more]
        self._storage = storage or Storage()

    def write(self, update: int, metrics: Mapping[str, float]) -> None:
        """Add the metrics of one update; JSON has no NaN, so what is not finite stands there as null."""
        finite = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        line = (json.dumps({"update": update, **finite}) + "\n").encode()
        self._storage.keep_trying(f"metrics of update {update}", lambda: self._append(line))
        for copy in self._copies:
            copy.add(update, metrics)

    def sync(self) -> None:
        """Have all lines on the disk before a checkpoint that comes after them."""
        self._storage.keep_trying("metrics", lambda: os.fsync(self._lines.fileno()))

    def _append(self, line: bytes) -> None:
        """Write a whole line or, where the disk takes but a part of it, nothing."""
        end = os.fstat(self._lines.fileno()).st_size
        try:
            if self._lines.write(line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            os.ftruncate(self._lines.fileno(), end)
            raise

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lines.close()
        for copy in self._copies:
            copy.close()


class _Events:
    """TensorBoard's copy of the metrics.

    A writer that the disk has refused once never works again: the next update gets a new one.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._writer: SummaryWriter | None = None

    def add(self, update: int, metrics: Mapping[str, float]) -> None:
        """Add the metrics of an update; where that fails they are in metrics.jsonl alone, and the log says so."""
        try:
            self._writer = self._writer or SummaryWriter(str(self._directory), purge_step=update)
            for name, value in metrics.items():
                self._writer.add_scalar(name, value, update)
        except OSError as error:
            logger.warning("update %d: TensorBoard's events could not be written: %s", update, error)
            self.close()

    def close(self) -> None:
        """Write out what can be written."""
        writer, self._writer = self._writer, None
        with suppress(OSError):
            if writer is not None:
                writer.close()


def read_lines(path: Path) -> list[str]:
    """Whole lines of a metrics file; a line cut off by a crash is left out, a missing file has none."""
    if not path.exists():
        return []
    return [
        line.rstrip("\n") for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")
    ]


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The metrics of every whole line of a metrics file; what was not finite is None there."""
    return [json.loads(line) for line in read_lines(path)]
