"""Publishing: weights in the run directory and, where the recipe names one, on a store that the workers reach."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from safetensors.torch import load_file

from varl.trainer.disk.retry import Storage
from varl.trainer.rollouts.jobs import PublishedWeights
from varl.trainer.step.ema import WeightAverage
from varl.trainer.step.update import Updater
from varl.trajectories.weight_files import Manifest, file_digest, put_manifest
from varl.trajectories.weights import WeightStore

VERSION_FILE = re.compile(r"v(\d{6,})\..+")  # weights, manifest, and what a crash left of either


class Publisher:
    """Publishes versions of one run: whole in ``directory``, and at ``url`` (empty: nowhere) through a WeightStore.

    ``keep`` versions stay. A version is a file and a manifest, the manifest last. The oldest goes before a new one is
    written, so that a run which has published ``keep`` of them needs no more room for the next.

    Whatever writes raises StorageError where ``storage`` (none: without patience) has lost its patience.
    """

    def __init__(
        self,
        directory: Path,
        updater: Updater,
        average: WeightAverage | None,
        keep: int,
        url: str = "",
        storage: Storage | None = None,
    ) -> None:
        self._directory, self._updater, self._average, self._keep = directory, updater, average, keep
        self._store, self._storage = WeightStore(url, keep) if url else None, storage or Storage()
        self._newest: PublishedWeights | None = None  # of the policy's own weights

    def forget(self, version: int) -> None:
        """Delete this version and later ones here: what a dead attempt left would outlive those that are needed."""
        self._storage.keep_trying(f"weights {version}", lambda: self._forget(version))

    def publish(self, version: int) -> PublishedWeights:
        """Publish the policy's weights as this version, again where they are there already."""
        self._newest = self._storage.keep_trying(f"weights {version}", lambda: self._publish(version))
        return self._newest

    def current(self, version: int) -> PublishedWeights:
        """The policy's weights as this version, published once however often they are asked for."""
        return self._newest if self._newest is not None and self._newest.version == version else self.publish(version)

    def publish_average(self, version: int) -> PublishedWeights:
        """Publish the averages of this version as ema.safetensors; the weights themselves where none are kept."""
        average = self._average
        if average is None:
            return self.current(version)
        return self._storage.keep_trying(f"averaged weights {version}", lambda: self._publish_average(version, average))

    def restore(self, version: int, source: Path) -> PublishedWeights:
        """Publish an older version again, from a checkpoint's copy of its file."""
        self._storage.keep_trying(f"weights {version}", lambda: self._copy(source, self.path(version)))
        return self.find(version)

    def find(self, version: int) -> PublishedWeights:
        """A version whose file is still in the run directory, offered as before."""
        path = self.path(version)
        path.stat()  # a file that is not there is no disk to wait for
        return self._storage.keep_trying(f"manifest {version}", lambda: self._offer(version, path))

    def path(self, version: int) -> Path:
        """Where a version's weights lie in the run directory."""
        return self._directory / f"v{version:06d}.safetensors"

    def _forget(self, version: int) -> None:
        for found in sorted(self._directory.glob("v*")):  # a manifest goes before its weights
            named = VERSION_FILE.fullmatch(found.name)
            if named and int(named[1]) >= version:
                found.unlink()

    def _publish(self, version: int) -> PublishedWeights:
        path = self.path(version)
        self._prune(path)
        return self._write(version, path)

    def _publish_average(self, version: int, average: WeightAverage) -> PublishedWeights:
        with average.applied():
            return self._write(version, self._directory / "ema.safetensors")

    def _write(self, version: int, path: Path) -> PublishedWeights:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._updater.policy.save_weights(str(path))
        return self._offer(version, path)

    def _copy(self, source: Path, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, path)

    def _offer(self, version: int, path: Path) -> PublishedWeights:
        local = path.with_suffix(".json")
        put_manifest(str(local), Manifest(version=version, file=path.name, sha256=file_digest(path)))
        address = self._store.put(version, path, load_file(path)) if self._store else str(local.resolve())
        return PublishedWeights(version, path, address)

    def _prune(self, path: Path) -> None:
        """Delete all but the newest versions here, one fewer than are kept.

        ``path`` is about to be written, whatever its number.
        """
        files = sorted(
            found
            for found in self._directory.glob("v*.safetensors")
            if re.fullmatch(r"v\d{6,}\.safetensors", found.name)
        )
        others = [found for found in files if found != path]
        for old in others[: max(len(others) + 1 - self._keep, 0)]:
            old.with_suffix(".json").unlink(missing_ok=True)
            old.unlink()


def keep_final(weights: PublishedWeights) -> Path:
    """Copy published weights to final.safetensors beside them, whole or not at all."""
    final = weights.path.with_name("final.safetensors")
    part = final.with_suffix(".part")
    shutil.copyfile(weights.path, part)
    return part.replace(final)
