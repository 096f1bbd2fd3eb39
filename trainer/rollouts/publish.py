"""Publishing: weights in the run directory and, where the recipe names one, on a store that the workers reach."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from varl.policy.tensor_files import save_tensors
from varl.trainer.disk.retry import Storage
from varl.trainer.rollouts.jobs import PublishedWeights
from varl.trainer.step.ema import WeightAverage
from varl.trainer.step.update import Updater
from varl.trajectories.weights import Base, Manifest, file_digest, put, put_manifest, remove, tensors_digest

DELTA_BELOW = 0.5  # of all bytes: what has changed is published alone where it is no more than this


class Publisher:
    """Publishes versions of one run: whole in ``directory``; at ``url`` (empty: nowhere) the changed tensors alone if they are few.

    ``keep`` versions stay, and at ``url`` the whole one that deltas lie on. A version is a file and a manifest, the manifest last. The
    oldest goes before a new one is written, so that a run which has published ``keep`` of them needs no more room for the next.

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
        self._url, self._storage = url.rstrip("/"), storage or Storage()
        self._newest: PublishedWeights | None = None  # of the policy's own weights
        self._base: tuple[Base, dict[str, Tensor]] | None = None  # what lies whole at the url
        self._remote: list[tuple[str, str]] = []  # manifest and file of each version there, oldest first

    def publish(self, version: int) -> PublishedWeights:
        """Publish the policy's weights as this version, anew where they lie there already."""
        self._newest = self._storage.insist(f"weights {version}", lambda: self._publish(version))
        return self._newest

    def current(self, version: int) -> PublishedWeights:
        """The policy's weights as this version, published once however often they are asked for."""
        return self._newest if self._newest is not None and self._newest.version == version else self.publish(version)

    def publish_average(self, version: int) -> PublishedWeights:
        """Publish the averages of this version as ema.safetensors; the weights themselves where none are kept."""
        average = self._average
        if average is None:
            return self.current(version)
        return self._storage.insist(f"averaged weights {version}", lambda: self._publish_average(version, average))

    def restore(self, version: int, source: Path) -> PublishedWeights:
        """Publish an older version again, from a checkpoint's copy of its file."""
        self._storage.insist(f"weights {version}", lambda: self._copy(source, self.path(version)))
        return self.find(version)

    def find(self, version: int) -> PublishedWeights:
        """A version whose file is still in the run directory, offered as before."""
        path = self.path(version)
        tensors = load_file(path)  # once, and a file that is not there is no disk to wait for
        return self._storage.insist(f"manifest {version}", lambda: self._offer(version, path, tensors))

    def path(self, version: int) -> Path:
        """Where a version's weights lie in the run directory."""
        return self._directory / f"v{version:06d}.safetensors"

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
        return self._offer(version, path, self._updater.policy.module.state_dict())

    def _copy(self, source: Path, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, path)

    def _offer(self, version: int, path: Path, tensors: dict[str, Tensor]) -> PublishedWeights:
        manifest = Manifest(version=version, file=path.name, sha256=file_digest(path))
        local = path.with_suffix(".json")
        put_manifest(str(local), manifest)
        return PublishedWeights(version, path, self._upload(path, manifest, tensors) if self._url else str(local.resolve()))

    def _upload(self, path: Path, manifest: Manifest, tensors: dict[str, Tensor]) -> str:
        """Put a version on the store; returns the URL of its manifest."""
        delta = self._delta(path, tensors)
        if delta is not None:
            base, path = delta
            whole = tensors_digest(tensors)
            manifest = Manifest(version=manifest.version, file=path.name, sha256=file_digest(path), base=base, tensors=whole)
        name = f"{path.name.split('.')[0]}.json"
        put(f"{self._url}/{path.name}", path)
        put_manifest(f"{self._url}/{name}", manifest)
        if delta is not None:
            path.unlink()
        elif path.name.startswith("v"):
            kept = {key: value.detach().cpu().clone() for key, value in tensors.items()}
            self._base = Base(manifest=name, sha256=manifest.sha256), kept
        self._prune_remote(name, path.name)
        return f"{self._url}/{name}"

    def _delta(self, path: Path, tensors: dict[str, Tensor]) -> tuple[Base, Path] | None:
        """The whole version below and a file with what differs from it; None where most of it does, or nothing lies there yet."""
        if self._base is None or self._base[0].manifest == path.with_suffix(".json").name:
            return None
        base, below = self._base
        changed = {name: value.contiguous() for name, value in tensors.items() if not torch.equal(value.cpu(), below[name])}
        if _bytes(changed) > DELTA_BELOW * _bytes(tensors):
            return None
        file = path.with_suffix(".delta.safetensors")
        save_tensors(changed, file)
        return base, file

    def _prune(self, path: Path) -> None:
        """Delete all but the newest versions here, one fewer than are kept: ``path`` is about to be written, whatever its number."""
        files = sorted(found for found in self._directory.glob("v*.safetensors") if re.fullmatch(r"v\d{6,}\.safetensors", found.name))
        others = [found for found in files if found != path]
        for old in others[: max(len(others) + 1 - self._keep, 0)]:
            old.with_suffix(".json").unlink(missing_ok=True)
            old.unlink()

    def _prune_remote(self, manifest: str, file: str) -> None:
        if not manifest.startswith("v"):
            return
        self._remote = [entry for entry in self._remote if entry[0] != manifest] + [(manifest, file)]
        for entry in self._remote[: -self._keep]:
            if self._base is None or entry[0] != self._base[0].manifest:
                self._remote.remove(entry)
                for name in entry:
                    remove(f"{self._url}/{name}")


def keep_final(weights: PublishedWeights) -> Path:
    """Copy published weights to final.safetensors beside them, whole or not at all."""
    final = weights.path.with_name("final.safetensors")
    part = final.with_suffix(".part")
    shutil.copyfile(weights.path, part)
    return part.replace(final)


def _bytes(tensors: dict[str, Tensor]) -> int:
    return sum(value.nbytes for value in tensors.values())
