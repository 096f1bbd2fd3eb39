"""One file of another project, run as it stands: what it imports of its own project and is not needed is made up.

``make peers PEERS=FOLDER`` names a folder with checkouts; nothing of them is copied here.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.util
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


class _Any(type):
    """Any attribute of a made-up class is a made-up class."""

    def __getattr__(cls, name: str) -> Any:  # noqa: ANN401
        if name.startswith("__"):
            raise AttributeError(name)
        return MadeUp


class MadeUp(metaclass=_Any):
    """Stands for whatever a client's file imports but does not need to talk to a server; keeps its keywords."""

    def __init__(self, *_: object, **named: object) -> None:
        self.__dict__.update(named)


class _Module(ModuleType):
    __path__: list[str] = []  # noqa: RUF012 # a package, so that it has modules below it

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        if name.startswith("__"):
            raise AttributeError(name)
        return MadeUp


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Modules of ``files`` come from their files, all others below the names of ``packages`` are made up."""

    def __init__(self, files: Mapping[str, Path], packages: Sequence[str]) -> None:
        self._files, self._packages = files, packages

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name in self._files:
            return importlib.util.spec_from_file_location(name, self._files[name])
        made_up = name.partition(".")[0] in self._packages
        return ModuleSpec(name, self, is_package=True) if made_up else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Module(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """There is nothing in it."""


def checkout(name: str) -> Path:
    """The folder of a project's checkout; skips the test where there is none."""
    folder = Path(os.environ["VARL_PEERS"]) / name
    if not folder.is_dir():
        pytest.skip(f"no checkout of {name} in {folder.parent}")
    return folder


@contextmanager
def peer_module(name: str, files: Mapping[str, Path], more: Sequence[str] = ()) -> Iterator[ModuleType]:
    """The module ``name`` out of ``files``; its own package and the packages of ``more`` are otherwise made up."""
    packages = {name.partition(".")[0], *more}
    before, finder = set(sys.modules), _Finder(files, tuple(packages))
    sys.meta_path.insert(0, finder)
    try:
        yield importlib.import_module(name)
    finally:
        sys.meta_path.remove(finder)
        for added in set(sys.modules) - before:
            if added.partition(".")[0] in packages:
                del sys.modules[added]
