"""Which jobs are asked for when.

Those of update u are drawn with the weights of version u - max_staleness, as soon as these exist.
With max_staleness = 0 that is the update's own weights, and nothing overlaps. Otherwise the workers draw the next
groups while the trainer updates. Which weights draw which group depends on no clock, so a run that is killed goes on
exactly as if it had not been.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from varl.trainer.rollouts.jobs import PublishedWeights
from varl.trainer.rollouts.publish import Publisher
from varl.trajectories.queue import RunQueue
from varl.v1 import rollout_pb2

FILE = "behaviour-v{:06d}.safetensors"  # in a checkpoint


class Prefetcher:
    """Publishes weights and asks for groups, up to ``staleness`` updates before they are trained on.

    Never beyond update ``last`` - 1.
    """

    def __init__(
        self,
        queue: RunQueue,
        publisher: Publisher,
        make_jobs: Callable[[int, PublishedWeights], list[rollout_pb2.RolloutJob]],
        staleness: int,
        last: int,
    ) -> None:
        self._queue, self._publisher, self._make_jobs = queue, publisher, make_jobs
        self._staleness, self._last = staleness, last
        self._jobs: dict[int, list[rollout_pb2.RolloutJob]] = {}  # asked for, by update
        self._older: dict[int, PublishedWeights] = {}  # versions that a resumed run draws with once more
        self._published: set[int] = set()  # versions that this attempt has published

    def resume(self, update: int, checkpoint: Path | None) -> None:
        """Publish again, from the checkpoint, the versions before ``update`` that later groups are sampled with.

        What an attempt that died later has published from ``update`` on is deleted: it is published again.
        """
        self._publisher.forget(update)
        for version in self._behaviours(update) if checkpoint else ():
            kept = checkpoint / FILE.format(version) if checkpoint else Path()
            if kept.exists():
                self._older[version] = self._publisher.restore(version, kept)
        self._published = set(self._older)

    def files(self, update: int) -> Mapping[str, Path]:
        """What a checkpoint before ``update`` has to keep for ``resume``, by its name there.

        Versions that this attempt has not published are left out: one resumed with more staleness lacks some.
        """
        versions = self._published.intersection(self._behaviours(update))
        return {FILE.format(version): self._publisher.path(version) for version in sorted(versions)}

    def jobs_of(self, update: int) -> list[rollout_pb2.RolloutJob]:
        """Publish the weights as they are before ``update`` and ask for what can be drawn with them.

        Returns the jobs of this update.
        Without staleness the jobs are left to the caller to submit.
        """
        weights = self._publisher.current(update)
        self._published.add(update)
        for later in range(update, min(update + self._staleness, self._last - 1) + 1):
            if later not in self._jobs:
                self._jobs[later] = self._make_jobs(later, self._weights(later, weights))
                if self._staleness:
                    self._queue.submit_ahead(self._jobs[later])
        return self._jobs.pop(update)

    def _weights(self, update: int, newest: PublishedWeights) -> PublishedWeights:
        return self._older.get(max(0, update - self._staleness), newest)

    def _behaviours(self, update: int) -> range:
        return range(max(0, update - self._staleness), update if self._staleness else 0)
