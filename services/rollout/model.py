"""The one thread that touches the policy, and the weights it holds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError

from varl.policy.base import Policy
from varl.trajectories.weight_places import WeightPlaces, regular_file, require_bounded_header
from varl.trajectories.weights import WeightsUnavailable, fetch, is_manifest, read_manifest

T = TypeVar("T")
Identity = tuple[
    int, str, int | str, int
]  # version and path, then time and size of a weight file, or the digest in its manifest


@dataclass(frozen=True)
class WeightSource:
    """Where weights come from: a version and a path as jobs name them; path "" is the base model's."""

    version: int = 0
    path: str = ""


class Weights:
    """Which weights a policy holds; loads others when a job names them, by a manifest (verified) or a bare file.

    cache: folder for those that come from elsewhere. places: where a job's path may lead; the folder of ``base`` is
    allowed as well.
    """

    def __init__(self, policy: Policy, base: Path, cache: Path, places: WeightPlaces | None = None) -> None:
        self._policy, self._base, self._cache = policy, base, cache
        given = places or WeightPlaces()
        self._places = WeightPlaces((*given.prefixes, str(base.parent.resolve())))
        self.source = WeightSource()  # of the last load that succeeded
        self._held: Identity | None = _identity(0, base)  # what the policy was built from

    @property
    def version(self) -> int:
        """Version of the last load that succeeded."""
        return self.source.version

    @property
    def loaded(self) -> bool:
        """False after a load that failed: nothing may be sampled until another one succeeds."""
        return self._held is not None

    def use(self, version: int, path: str) -> str | None:
        """Make ``policy`` hold the weights of ``path`` ("": the base model's); returns why that failed, or None.

        A file that was rewritten under the same name and version, as after a resume, is read again.
        """
        try:
            if is_manifest(path):
                self._use_published(version, path)
            else:
                self._places.require(path)
                file = regular_file(Path(path), self._places) if path else self._base
                self._hold(_identity(version, file), file)
        except (OSError, ValueError, SafetensorError, WeightsUnavailable) as error:
            return f"weight_path {path or str(self._base)!r} of version {version}: {type(error).__name__}: {error}"
        self.source = WeightSource(version, path)
        return None

    def _use_published(self, version: int, url: str) -> None:
        manifest = read_manifest(url, self._places)
        if manifest.version != version:
            raise WeightsUnavailable(f"the manifest is of version {manifest.version}")
        wanted = (version, url, manifest.sha256, 0)
        if wanted != self._held:
            self._hold(wanted, fetch(url, manifest, self._cache, self._places))

    def _hold(self, wanted: Identity, file: Path) -> None:
        if wanted != self._held:
            self._held = None  # a load that fails half-way leaves weights of neither version
            require_bounded_header(file)
            self._policy.load_weights(str(file))
            self._held = wanted


def _identity(version: int, file: Path) -> Identity:
    status = file.stat()
    return version, str(file), status.st_mtime_ns, status.st_size


class ModelThread:
    """Runs model work on one thread of its own; ``exclusive`` keeps the weights in place over several pieces of it."""

    def __init__(self, threads: int) -> None:
        # The number of OpenMP threads belongs to the thread that sets it.
        self._executor = ThreadPoolExecutor(1, "model", initializer=torch.set_num_threads, initargs=(threads,))
        self._lock = asyncio.Lock()

    @asynccontextmanager
    async def exclusive(self) -> AsyncIterator[None]:
        """Wait for one's turn (first come, first served) and hold the policy's weights until the end of the block."""
        async with self._lock:
            yield

    async def call(self, work: Callable[..., T], *arguments: object) -> T:
        """Run one piece of model work. Cancelling lets the piece end on its thread before the next one starts there."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, work, *arguments)

    async def steps(self, work: Iterator[T]) -> AsyncGenerator[T]:
        """Run an iterator's steps one by one, the event loop being free in between."""
        while (step := await self.call(next, work, None)) is not None:
            yield step

    def close(self) -> None:
        """End the thread once its piece of work is done."""
        self._executor.shutdown(wait=True, cancel_futures=True)
