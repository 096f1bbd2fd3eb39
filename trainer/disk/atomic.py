"""Files that are there whole or not at all, whatever moment the machine dies at."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from varl.trajectories.weight_files import file_digest

COMPLETE = "COMPLETE"  # written last, with the digests of all other files: a folder without it is nothing


def sync(path: Path) -> None:
    """Have a file's content, or a folder's names, on the disk before anything else happens."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_durably(path: Path, text: str) -> None:
    """Write a text beside its place, sync it, and rename it there.

    Readers and crashes see the old text or the new one.
    """
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8")
    sync(part)
    part.replace(path)
    sync(path.parent)


def seal(part: Path, final: Path) -> None:
    """Make a folder permanent as ``final``.

    Every file in it, at whatever depth, synced, renamed, then marked with the digests of its files.
    """
    found = sorted(part.rglob("*"))
    for path in [*found, part]:
        sync(path)
    digests = {path.relative_to(part).as_posix(): file_digest(path) for path in found if path.is_file()}
    part.rename(final)
    sync(final.parent)
    write_durably(final / COMPLETE, json.dumps(digests, indent=1))


def remove_sealed(folder: Path) -> None:
    """Delete a folder, its mark first, so that a half deleted one is never taken for a whole one."""
    (folder / COMPLETE).unlink(missing_ok=True)
    if folder.exists():
        sync(folder)
        shutil.rmtree(folder)


def damage(folder: Path) -> str | None:
    """Return what is wrong with a marked folder, or None.

    Its mark names nothing, or a file is missing or differs from what was sealed.
    """
    try:
        digests = json.loads((folder / COMPLETE).read_text(encoding="utf-8"))
        if not isinstance(digests, dict) or not digests:
            return f"{COMPLETE} names no files"
        return next(
            (f"{name} has changed" for name, digest in digests.items() if file_digest(folder / name) != digest), None
        )
    except (OSError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
