"""Where weights may be read from: regular files and objects below configured prefixes, whatever a job or volume names.

A job comes from Redis and a manifest from a volume, so neither may make a worker follow a URL of its choice, wait at a
pipe, or read into memory what has no end.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import fsspec
from fsspec.implementations.local import LocalFileSystem

MOST_HEADER_BYTES = 16 * 2**20  # of a safetensors file: about a hundred thousand tensors
LENGTH_BYTES = 8  # little-endian, before the header
LOCAL = ("", "file", "local")
DISGUISED = re.compile(r"%(2e|2f|5c)|\\", re.IGNORECASE)  # what a server may read as a step upwards


class WeightPlaceError(ValueError):
    """A weight path leads where no weights may be read from; the message says why."""


@dataclass(frozen=True)
class WeightPlaces:
    """Prefixes of weight paths: absolute folders of this machine, and URLs that name a store, such as s3://bucket/runs.

    The default is any folder and no store. Links are followed before a folder is compared.
    """

    prefixes: tuple[str, ...] = ("/",)

    @classmethod
    def of(cls, prefixes: Sequence[str]) -> Self:
        """Places by prefixes as a person writes them; raises ValueError for one that is neither folder nor store."""
        for prefix in prefixes:
            scheme, _ = _parts(prefix)
            if "::" in prefix or (scheme in LOCAL and not _local_path(prefix).is_absolute()):
                raise ValueError(f"weights_prefix must be an absolute folder or a URL of one store, got {prefix!r}")
        return cls(tuple(prefixes))

    def require(self, url: str) -> None:
        """Raise WeightPlaceError for a URL of a store that no prefix allows, or of stores behind one another."""
        scheme, rest = _parts(url)
        if "::" in url:
            raise WeightPlaceError("URLs that are chained by :: are not followed")
        if scheme in LOCAL:
            return  # its folder is looked at once links are resolved
        if DISGUISED.search(rest):
            raise WeightPlaceError("dots, slashes and backslashes are not to be written as others or in code")
        allowed = any(url.startswith(prefix if prefix.endswith("/") else f"{prefix}/") for prefix in self._stores())
        if not allowed or ".." in rest.split("/"):
            raise WeightPlaceError(f"it is outside of {', '.join(self.prefixes)} (weights_prefix)")

    def require_folder(self, path: Path) -> None:
        """Raise WeightPlaceError for a resolved path of this machine that no prefix holds."""
        folders = [_local_path(prefix).resolve() for prefix in self.prefixes if _parts(prefix)[0] in LOCAL]
        if not any(path.is_relative_to(folder) for folder in folders):
            raise WeightPlaceError(f"it is outside of {', '.join(self.prefixes)} (weights_prefix)")

    def _stores(self) -> list[str]:
        return [prefix for prefix in self.prefixes if _parts(prefix)[0] not in LOCAL]


def regular_file(path: Path, places: WeightPlaces | None = None) -> Path:
    """The file that a path leads to, links resolved.

    Raises:
        WeightPlaceError: it is no regular file (a pipe, a device, a folder), or outside of ``places``.
        OSError: it is not there.
    """
    try:
        resolved = path.resolve(strict=True)
    except RuntimeError as error:  # before Python 3.13; an OSError from then on
        raise WeightPlaceError("it is a link that leads back to itself") from error
    if places is not None:
        places.require_folder(resolved)
    if not stat.S_ISREG(resolved.stat().st_mode):
        raise WeightPlaceError("it is no regular file")
    return resolved


def opened_place(url: str, places: WeightPlaces | None) -> tuple[Any, str]:
    """The fsspec file system of a URL and the path in it; None for ``places``: the caller's own URL, not looked at.

    Raises as ``WeightPlaces.require`` and, for a path of this machine, ``regular_file`` do.
    """
    if places is not None:
        places.require(url)
    filesystem, path = fsspec.core.url_to_fs(url)
    if isinstance(filesystem, LocalFileSystem):
        return filesystem, str(regular_file(Path(path), places))
    if places is not None and _parts(url)[0] in LOCAL:
        raise WeightPlaceError(
            "it is neither a path nor a URL of a store"
        )  # such as data:…, which holds its own content
    return filesystem, path


def read_small(url: str, most_bytes: int, places: WeightPlaces | None) -> bytes:
    """The content of a small file or object.

    Raises:
        WeightPlaceError: it is larger, no file, or outside of ``places``.
        Exception: whatever its store raises where it is unavailable.
    """
    filesystem, path = opened_place(url, places)
    if isinstance(filesystem, LocalFileSystem):
        data = _read_local(path, most_bytes + 1)
    else:
        filesystem.invalidate_cache()
        found = filesystem.info(path)
        if found.get("type") != "file" or (found.get("size") or 0) > most_bytes:
            raise WeightPlaceError(f"it is no object of at most {most_bytes} bytes")
        data = filesystem.cat_file(path)
    if len(data) > most_bytes:
        raise WeightPlaceError(f"it has more than {most_bytes} bytes")
    return bytes(data)


def require_bounded_header(path: Path) -> None:
    """Raise WeightPlaceError for a file whose safetensors header is larger than any real one, or than the file."""
    size = path.stat().st_size
    length = int.from_bytes(_read_local(str(path), LENGTH_BYTES), "little")
    if length > min(MOST_HEADER_BYTES, size - LENGTH_BYTES):
        raise WeightPlaceError(f"its safetensors header of {length} bytes is too large for a file of {size}")


def _read_local(path: str, count: int) -> bytes:
    """Up to ``count`` bytes, without waiting for a writer where the file has become a pipe meanwhile."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise WeightPlaceError("it is no regular file")
        return file.read(count)


def _parts(url: str) -> tuple[str, str]:
    """Scheme, "" where there is none, and what follows it."""
    scheme, mark, rest = url.partition("://")
    return (scheme, rest) if mark else ("", url)


def _local_path(prefix: str) -> Path:
    return Path(_parts(prefix)[1])
