"""The files of a published version on any URL that fsspec reads: safetensors and a manifest with their digest.

The manifest is written last, so that a reader who sees it sees all that it names. A delta names the whole version that
it lies on and holds only the tensors that differ from it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, uint8

DIGEST = r"^[0-9a-f]{64}$"
BESIDE = r"^[A-Za-z0-9_-][A-Za-z0-9._-]*$"  # a name in the same folder
MOST_MANIFEST_BYTES = 2**16


class Base(BaseModel):
    """The whole version that a delta lies on."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    manifest: str = Field(pattern=BESIDE, max_length=255)
    sha256: str = Field(pattern=DIGEST, description="of its file")


class Manifest(BaseModel):
    """What one published version consists of; ``file`` and ``base`` lie beside it.

    ``tensors``: of a delta, digest of both together.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: int = Field(ge=0)
    file: str = Field(pattern=BESIDE, max_length=255)
    sha256: str = Field(pattern=DIGEST)
    base: Base | None = None
    tensors: str = Field(default="", pattern=rf"^$|{DIGEST}")


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

    def copy(filesystem: Any, path: str) -> None:  # noqa: ANN401
        filesystem.makedirs(str(PurePosixPath(path).parent), exist_ok=True)
        filesystem.put_file(str(local), path)

    _place(url, copy)


def put_manifest(url: str, manifest: Manifest) -> None:
    """Write a manifest: the version exists from now on. Raises OSError."""
    text = manifest.model_dump_json(indent=1).encode()
    _place(url, lambda filesystem, path: filesystem.pipe_file(path, text))


def _place(url: str, write: Callable[[Any, str], None]) -> None:
    """Have ``write`` fill a URL's file.

    An object appears once all of it is there, a file on this machine is renamed into its place.
    """
    filesystem, path = fsspec.core.url_to_fs(url)
    if not isinstance(filesystem, LocalFileSystem):
        with store_errors(url):
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
    with store_errors(url):
        if filesystem.exists(path):
            filesystem.rm_file(path)


def names_at(url: str) -> list[str]:
    """Names of the files directly below a URL; none where nothing is there. Raises OSError."""
    filesystem, path = fsspec.core.url_to_fs(url)
    with store_errors(url):
        filesystem.invalidate_cache()
        try:
            return [str(found).rpartition("/")[2] for found in filesystem.ls(path, detail=False)]
        except FileNotFoundError:
            return []


@contextmanager
def store_errors(url: str) -> Iterator[None]:
    """Every store has errors of its own for being away, full or forbidden: all are an OSError here."""
    try:
        yield
    except Exception as error:
        raise OSError(f"{url}: {type(error).__name__}: {error}") from error
