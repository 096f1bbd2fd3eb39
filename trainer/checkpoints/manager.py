"""Makes a run durable: its checkpoints, which of them stay, and what each allows to be forgotten in Redis."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from varl.trainer.checkpoints.checkpoint import (
    Progress,
    Restored,
    TrainedState,
    checkpoints,
    newest_checkpoint,
    save_checkpoint,
    sweep,
)
from varl.trainer.disk.atomic import write_durably
from varl.trainer.disk.retry import Storage
from varl.trainer.recipe.sections import CheckpointSettings
from varl.trajectories.queue import RunQueue

logger = logging.getLogger("trainer")
BEST = "best.json"


@dataclass(frozen=True)
class Best:
    """The evaluation that was best so far."""

    update: int
    value: float


class CheckpointManager:
    """Saves and restores one run.

    Trajectories are acknowledged only once a checkpoint holds the updates that used them. ``notes`` gives what a
    checkpoint says beside its tensors, ``files`` what else it keeps; ``storage`` writes down which one is best.
    """

    def __init__(
        self,
        directory: Path,
        settings: CheckpointSettings,
        state: TrainedState,
        queue: RunQueue,
        notes: Callable[[Progress], dict[str, Any]],
        files: Callable[[int], Mapping[str, Path]],
        storage: Storage,
    ) -> None:
        self.directory, self._settings = directory, settings
        self._state, self._queue = state, queue
        self._notes, self._files, self._storage = notes, files, storage
        self._used: list[str] = []
        self._saved = -1  # update of the newest checkpoint
        self.failures = 0  # checkpoints that could not be written

    def exists(self) -> bool:
        """Whether there is any checkpoint to go on from."""
        return bool(checkpoints(self.directory))

    def restore(self) -> Restored | None:
        """Put the newest sound checkpoint's state in place; None where there is none.

        Leftovers of a crash are deleted.
        """
        sweep(self.directory)
        found = newest_checkpoint(self.directory)
        if found is None:
            return None
        restored = self._state.load(found)
        self._saved = restored.progress.update
        logger.info("checkpoint %d: restored", self._saved)
        return restored

    def use(self, entry_ids: Sequence[str]) -> None:
        """Remember trajectories that an update has used, to acknowledge them with the next checkpoint."""
        self._used += entry_ids

    def save(self, progress: Progress) -> None:
        """Write a checkpoint, then acknowledge the trajectories of the updates that it holds.

        Raises OSError: nothing was acknowledged.
        """
        logger.info("checkpoint %d: writing", progress.update)
        best = self.best()
        protect = {best.update} if best else set()
        queue = self._queue.position() | {"used": self._used}
        notes = self._notes(progress) | {"queue": queue}
        files = self._files(progress.update)
        parts, write = (self._state.updater, self._state.average), self._state.write
        save_checkpoint(self.directory, progress, *parts, self._settings.keep, notes, protect, files, write)
        self._saved = progress.update
        logger.info("checkpoint %d: complete", progress.update)
        self._queue.acknowledge(self._used)
        self._used = []
        logger.info("checkpoint %d: acknowledged", progress.update)

    def save_newer(self, progress: Progress) -> None:
        """Save, unless there is a checkpoint of this update; raises as ``save`` does."""
        if progress.update > max(self._saved, 0):
            self.save(progress)

    def save_or_postpone(self, progress: Progress) -> bool:
        """Save.

        False where the disk refuses, which is said and counted: the run goes on, and its trajectories stay in Redis.
        """
        try:
            self.save(progress)
        except OSError as error:
            self.failures += 1
            sweep(self.directory)  # what was written of it takes the room that is lacking
            logger.error("checkpoint %d: could not be written, the next update tries again: %s", progress.update, error)
            return False
        return True

    def judge(self, progress: Progress, metrics: Mapping[str, float]) -> None:
        """Keep the checkpoint of these weights if an evaluation finds them better than all before."""
        value, best = metrics.get(self._settings.best), self.best()
        if value is None or (best is not None and value <= best.value):
            return
        if self._saved != progress.update and not self.save_or_postpone(progress):
            return
        text = json.dumps({"update": progress.update, "value": value})
        self._storage.keep_trying(BEST, lambda: write_durably(self.directory / BEST, text))
        logger.info("checkpoint %d: best so far, %s %.4f", progress.update, self._settings.best, value)

    def best(self) -> Best | None:
        """The best evaluation whose checkpoint is still there."""
        file = self.directory / BEST
        if not file.exists():
            return None
        best = Best(**json.loads(file.read_text(encoding="utf-8")))
        return best if self.directory / f"{best.update:06d}" in checkpoints(self.directory) else None
