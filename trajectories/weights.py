"""Published weights between trainer and workers: a safetensors file and a manifest with its digest, on any URL that fsspec reads.

The manifest is written last, so that whoever sees it sees all that it names. A delta names the whole version that it lies on and holds
only the tensors that differ from it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem
from pydantic import BaseModel, ConfigDict, Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, uint8

CACHED_FILES = 4
DIGEST = r"^[0-9a-f]{64}$"


class WeightsUnavailable(RuntimeError):  # noqa: N818  (as RewardUnavailable: a state of the world)
    """A published version cannot be had: not there, not reachable, or not what its manifest says; the message says which."""


class Base(BaseModel):
    """The whole version that a delta lies on."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    manifest: str
    sha256: str = Field(pattern=DIGEST, description="of its file")


class Manifest(BaseModel):
    """What one published version consists of; ``file`` and ``base`` lie beside it. tensors: of a delta, digest of both together."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: int = Field(ge=0)
    file: str = Field(pattern=r"^[A-Za-z0-9._-]+$")
    sha256: str = Field(pattern=DIGEST)
    base: Base | None = None
    tensors: str = Field(default="", pattern=rf"^$|{DIGEST}")


def is_manifest(url: str) -> bool:
    """Whether a job's weight path names a manifest, and not a bare file of weights."""
    return url.endswith(".json")


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes of tensors, whatever their order."""
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(uint8).numpy().tobytes())
    return digest.hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def put(url: str, local: Path) -> None:
    """Copy a file to ``url``, whole or not at all. Raises OSError, whatever kind of error the store has."""

    def copy(filesystem: Any, path: str) -> None:  # noqa: ANN401  (fsspec has no types)
        filesystem.makedirs(str(PurePosixPath(path).parent), exist_ok=True)
        filesystem.put_file(str(local), path)

    _place(url, copy)


def put_manifest(url: str, manifest: Manifest) -> None:
    """Write a manifest: the version exists from now on. Raises OSError."""
    text = manifest.model_dump_json(indent=1).encode()
    _place(url, lambda filesystem, path: filesystem.pipe_file(path, text))


def _place(url: str, write: Callable[[Any, str], None]) -> None:
    """Have ``write`` fill a URL's file: an object appears once all of it is there, a file on this machine is renamed into its place."""
    filesystem, path = fsspec.core.url_to_fs(url)
    if not isinstance(filesystem, LocalFileSystem):
        with _store_errors(url):
            write(filesystem, path)
        return
    part = Path(f"{path}.part")
    try:
        write(filesystem, str(part))
    except OSError:
        part.unlink(missing_ok=True)  # it takes the room that is lacking
        raise
    part.replace(path)


def remove(url: str) -> None:
    """Delete a file, if it is there. Raises OSError."""
    filesystem, path = fsspec.core.url_to_fs(url)
    with _store_errors(url):
        if filesystem.exists(path):
            filesystem.rm_file(path)


@contextmanager
def _store_errors(url: str) -> Iterator[None]:
    """Every store has errors of its own for being away, full or forbidden: all are an OSError here."""
    try:
        yield
    except Exception as error:
        raise OSError(f"{url}: {type(error).__name__}: {error}") from error


def read_manifest(url: str) -> Manifest:
    """Read a manifest. Raises WeightsUnavailable."""
    try:
        filesystem, path = fsspec.core.url_to_fs(url)
        filesystem.invalidate_cache()
        return Manifest.model_validate_json(filesystem.cat_file(path))
    except Exception as error:  # every store has errors of its own, and all mean that the version cannot be had now
        raise WeightsUnavailable(f"{url}: {type(error).__name__}: {error}") from error


def fetch(url: str, manifest: Manifest, cache: Path) -> Path:
    """Return a file with all weights of a version, its digest verified; what is not on this machine is kept in ``cache``.

    Raises WeightsUnavailable.
    """
    if manifest.base is None:
        return _get(_beside(url, manifest.file), manifest.sha256, cache)
    whole = cache / f"{manifest.tensors}.safetensors"
    if not whole.exists():
        tensors = _merged(url, manifest, manifest.base, cache)
        if tensors_digest(tensors) != manifest.tensors:
            raise WeightsUnavailable(f"{url}: base and delta together are not the weights that the manifest names")
        _write(tensors, whole)
    whole.touch()
    _prune(cache)
    return whole


def _merged(url: str, manifest: Manifest, base: Base, cache: Path) -> dict[str, Tensor]:
    base_url = _beside(url, base.manifest)
    below = read_manifest(base_url)
    if below.base is not None or below.sha256 != base.sha256:
        raise WeightsUnavailable(f"{url}: {base.manifest} is not the whole version that this delta lies on")
    paths = fetch(base_url, below, cache), _get(_beside(url, manifest.file), manifest.sha256, cache)
    try:
        tensors: dict[str, Tensor] = {}
        for path in paths:
            tensors |= load_file(path)
        return tensors
    except (OSError, SafetensorError) as error:
        raise WeightsUnavailable(f"{url}: {type(error).__name__}: {error}") from error


def _get(url: str, sha256: str, cache: Path) -> Path:
    """The file of a URL on this machine, its digest verified: in its place where that is here, else in the cache."""
    try:
        filesystem, path = fsspec.core.url_to_fs(url)
        if not isinstance(filesystem, LocalFileSystem):
            return _cached(filesystem, path, sha256, cache)
        _verify(Path(path), sha256)
        return Path(path)
    except Exception as error:  # as in read_manifest
        raise WeightsUnavailable(f"{url}: {type(error).__name__}: {error}") from error


def _cached(filesystem: Any, path: str, sha256: str, cache: Path) -> Path:  # noqa: ANN401  (fsspec has no types)
    local = cache / f"{sha256}.safetensors"
    if not local.exists() or file_digest(local) != sha256:  # damaged here, it would be refused for ever
        _download(filesystem, path, sha256, local)
    local.touch()
    _prune(cache)
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


def _prune(cache: Path) -> None:
    files = sorted(cache.glob("*.safetensors"), key=lambda path: path.stat().st_mtime_ns)
    for old in files[:-CACHED_FILES]:
        old.unlink(missing_ok=True)


def _beside(url: str, name: str) -> str:
    return f"{url.rpartition('/')[0]}/{name}"
