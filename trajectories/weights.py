"""WeightStore: published weights between trainer and workers.

The trainer puts and prunes versions, a worker gets them.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import torch
from fsspec.implementations.local import LocalFileSystem
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from varl.policy.tensor_files import save_tensors
from varl.trajectories.weight_files import (
    MOST_MANIFEST_BYTES,
    Base,
    Manifest,
    file_digest,
    names_at,
    put,
    put_manifest,
    remove,
    tensors_digest,
)
from varl.trajectories.weight_places import (
    WeightPlaceError,
    WeightPlaces,
    opened_place,
    read_small,
    require_bounded_header,
)

VERSION = re.compile(r"(v\d{6,})\.(?:json|safetensors|delta\.safetensors)")
CACHED_FILES = 4
DELTA_BELOW = 0.5  # of all bytes: what has changed is published alone where it is no more than this


class WeightsUnavailable(RuntimeError):  # noqa: N818
    """A published version is unavailable.

    It is missing, unreachable or not what its manifest says; the message says which.
    """


class WeightStore:
    """The writing side: versions at ``url``, the changed tensors alone where they are few, the newest ``keep`` of them.

    The whole version that deltas lie on stays as well. What earlier trainers of the run left at the URL counts as older
    than all that is put from now on, so a URL is one run's. Writing raises OSError, whatever kind of error a store has.
    """

    def __init__(self, url: str, keep: int) -> None:
        self._url, self._keep = url.rstrip("/"), keep
        self._base: tuple[Base, dict[str, Tensor]] | None = None  # what lies whole at the url
        self._versions: dict[str, set[str]] | None = None  # names of each one's files, oldest first; None: not looked

    def put(self, version: int, path: Path, tensors: dict[str, Tensor]) -> str:
        """Publish the file of a version, or what differs in it; returns the URL of its manifest.

        tensors: what the file holds. A name that begins with v counts among the versions that are pruned.
        """
        name, delta = path.with_suffix(".json").name, self._delta(path, tensors)
        file = path if delta is None else delta[1]
        manifest = Manifest(version=version, file=file.name, sha256=file_digest(file))
        if delta is not None:
            manifest = manifest.model_copy(update={"base": delta[0], "tensors": tensors_digest(tensors)})
        put(f"{self._url}/{file.name}", file)
        put_manifest(f"{self._url}/{name}", manifest)
        if delta is not None:
            file.unlink()
        elif name.startswith("v"):
            kept = {key: value.detach().cpu().clone() for key, value in tensors.items()}
            self._base = Base(manifest=name, sha256=manifest.sha256), kept
        if name.startswith("v"):
            self._prune(path.stem, {name, file.name})
        return f"{self._url}/{name}"

    def _delta(self, path: Path, tensors: dict[str, Tensor]) -> tuple[Base, Path] | None:
        """The whole version below and a file with what differs from it.

        None where most of it does, or nothing lies there yet.
        """
        if self._base is None or self._base[0].manifest == path.with_suffix(".json").name:
            return None
        base, below = self._base
        changed = {
            name: value.contiguous() for name, value in tensors.items() if not torch.equal(value.cpu(), below[name])
        }
        if _bytes(changed) > DELTA_BELOW * _bytes(tensors):
            return None
        file = path.with_suffix(".delta.safetensors")
        save_tensors(changed, file)
        return base, file

    def _prune(self, version: str, files: set[str]) -> None:
        """Count a version as the newest, and delete what is too old."""
        if self._versions is None:
            self._versions = _found(self._url)
        self._versions[version] = files | self._versions.pop(version, set())
        base = self._base[0].manifest.removesuffix(".json") if self._base else ""
        for old in [name for name in list(self._versions)[: -self._keep] if name != base]:
            for name in sorted(self._versions[old]):  # the manifest before what it names
                remove(f"{self._url}/{name}")
            del self._versions[old]


def _found(url: str) -> dict[str, set[str]]:
    """The versions that lie at a URL: names of their files, by version, oldest first."""
    found: dict[str, set[str]] = {}
    for name in sorted(names_at(url)):
        if named := VERSION.fullmatch(name):
            found.setdefault(named[1], set()).add(name)
    return found


def is_manifest(url: str) -> bool:
    """Whether a job's weight path names a manifest, and not a bare file of weights."""
    return url.endswith(".json")


def read_manifest(url: str, places: WeightPlaces | None = None) -> Manifest:
    """Read a manifest; places: where it may lie (None: anywhere, for URLs of one's own). Raises WeightsUnavailable."""
    try:
        return Manifest.model_validate_json(read_small(url, MOST_MANIFEST_BYTES, places))
    except ValidationError as error:  # without what the file holds: it may be none of ours
        told = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors(include_input=False)]
        raise WeightsUnavailable(f"{url}: not a manifest: {'; '.join(told[:3])}") from None
    except Exception as error:  # every store has errors of its own, and all mean that the version cannot be had now
        raise WeightsUnavailable(f"{url}: {type(error).__name__}: {error}") from error


def fetch(url: str, manifest: Manifest, cache: Path, places: WeightPlaces | None = None) -> Path:
    """Return a file with all weights of a version, its digest verified.

    What is not on this machine is kept in ``cache``. places: as in ``read_manifest``.
    Raises WeightsUnavailable.
    """
    if manifest.base is None:
        return _get(_beside(url, manifest.file), manifest.sha256, cache, places)
    whole = cache / f"{manifest.tensors}.safetensors"
    if not whole.exists():
        tensors = _merged(url, manifest, manifest.base, cache, places)
        if tensors_digest(tensors) != manifest.tensors:
            raise WeightsUnavailable(f"{url}: base and delta together are not the weights that the manifest names")
        _write(tensors, whole)
    whole.touch()
    _prune_cache(cache)
    return whole


def _merged(url: str, manifest: Manifest, base: Base, cache: Path, places: WeightPlaces | None) -> dict[str, Tensor]:
    base_url = _beside(url, base.manifest)
    below = read_manifest(base_url, places)
    if below.base is not None or below.sha256 != base.sha256:
        raise WeightsUnavailable(f"{url}: {base.manifest} is not the whole version that this delta lies on")
    paths = fetch(base_url, below, cache, places), _get(_beside(url, manifest.file), manifest.sha256, cache, places)
    try:
        tensors: dict[str, Tensor] = {}
        for path in paths:
            require_bounded_header(path)
            tensors |= load_file(path)
        return tensors
    except (OSError, SafetensorError, WeightPlaceError) as error:
        raise WeightsUnavailable(f"{url}: {type(error).__name__}: {error}") from error


def _get(url: str, sha256: str, cache: Path, places: WeightPlaces | None) -> Path:
    """The file of a URL on this machine, its digest verified: in its place where that is here, else in the cache."""
    try:
        filesystem, path = opened_place(url, places)
        if not isinstance(filesystem, LocalFileSystem):
            return _cached(filesystem, path, sha256, cache)
        _verify(Path(path), sha256)
        return Path(path)
    except Exception as error:  # as in read_manifest
        raise WeightsUnavailable(f"{url}: {type(error).__name__}: {error}") from error


def _cached(filesystem: Any, path: str, sha256: str, cache: Path) -> Path:  # noqa: ANN401
    local = cache / f"{sha256}.safetensors"
    if not local.exists() or file_digest(local) != sha256:  # damaged here, it would be refused for ever
        _download(filesystem, path, sha256, local)
    local.touch()
    _prune_cache(cache)
    return local


def _download(filesystem: Any, path: str, sha256: str, local: Path) -> None:  # noqa: ANN401
    local.parent.mkdir(parents=True, exist_ok=True)
    part = local.with_suffix(f".{os.getpid()}.part")
    filesystem.get_file(path, str(part))
    try:
        _verify(part, sha256)
    except ValueError:
        part.unlink()
        raise
    part.replace(local)


def _verify(path: Path, sha256: str) -> None:
    found = file_digest(path)
    if found != sha256:
        raise ValueError(f"SHA-256 is {found[:16]}…, the manifest says {sha256[:16]}…")


def _write(tensors: dict[str, Tensor], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}.part")
    save_file(tensors, part)
    part.replace(path)


def _prune_cache(cache: Path) -> None:
    files = sorted(cache.glob("*.safetensors"), key=lambda path: path.stat().st_mtime_ns)
    for old in files[:-CACHED_FILES]:
        old.unlink(missing_ok=True)


def _beside(url: str, name: str) -> str:
    return f"{url.rpartition('/')[0]}/{name}"


def _bytes(tensors: dict[str, Tensor]) -> int:
    return sum(value.nbytes for value in tensors.values())
