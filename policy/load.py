"""From a model folder to a policy: config.json names the architecture, a registry or the caller names the code.

A config.json is data that may come from anywhere, so it never decides what is imported: it names an architecture, and
that name has to be one of varl's own or of a package installed here (entry-point group ``varl.policies``). Code by
import path is named by the caller alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import torch
from torch import Tensor

from varl.policy.base import TrainablePolicy

Loader = Callable[[Path, str, torch.dtype], TrainablePolicy]
DtypeName = Literal["float32", "bfloat16"]
ENTRY_POINTS = "varl.policies"
BUILT_IN = {"infinity": "varl.policy.infinity:load", "nextflow": "varl.policy.nextflow:load"}
BLANK = {"infinity": "varl.policy.infinity:blank", "nextflow": "varl.policy.nextflow:blank"}
DEFAULT = "nextflow"  # of folders whose config.json is older than the key


def load(
    folder: str | Path, device: str = "cpu", dtype: str | torch.dtype = torch.float32, plugin: str = ""
) -> TrainablePolicy:
    """Load the model of a folder.

    device: of torch. dtype: of weights and arithmetic, or its name. plugin: "package.module:function", a loader
    (folder, device, dtype) that is used whatever config.json says; it is imported, so only the person who starts
    the program may name it.

    Raises:
        ValueError: config.json names no known architecture, the plugin cannot be imported, or the files do not fit
            together.
        OSError: a file is missing or cannot be read.
    """
    path = Path(folder)
    return _loader(path, plugin)(path, device, dtype if isinstance(dtype, torch.dtype) else torch_dtype(dtype))


class Decoder(Protocol):
    """The frozen part of a model that makes pixels."""

    def decode(self, tokens: Tensor) -> Tensor:
        """Images float32 [B, 3, H, W] in [-1, 1] of whole token sequences int64 [B, n]."""

    def parameters(self) -> Iterator[torch.nn.Parameter]:
        """Its weights, float32."""


class BlankPolicy(TrainablePolicy, Protocol):
    """A policy on the meta device: it has shapes and no values, and takes no memory whatever its size."""

    @property
    def tokenizer(self) -> Decoder:
        """The frozen part."""

    @property
    def depth(self) -> int:
        """Layers of the transformer, all alike."""


def load_blank(folder: str | Path, dtype: str, depth: int | None = None) -> BlankPolicy:
    """The model of a folder on the meta device, of which config.json alone is read.

    depth: so many layers instead of its own, an even number.

    Raises:
        ValueError: dtype is unknown, config.json does not fit, or its architecture is none of varl's own.
        OSError: it is missing or cannot be read.
    """
    path, kind = Path(folder), torch_dtype(dtype)
    name = architecture(path)
    if name not in BLANK:
        raise ValueError(f"{path / 'config.json'}: sizes of an {name!r} are not known, only of {', '.join(BLANK)}")
    module, _, function = BLANK[name].partition(":")
    found: BlankPolicy = getattr(import_module(module), function)(path, kind, depth)
    return found


def torch_dtype(name: str) -> torch.dtype:
    """The dtype of a name; raises ValueError for others than float32 and bfloat16."""
    if name not in get_args(DtypeName):
        raise ValueError(f"dtype must be one of {', '.join(get_args(DtypeName))}, got {name!r}")
    found: torch.dtype = getattr(torch, name)
    return found


def architecture(folder: Path) -> str:
    """The architecture that a folder's config.json names; raises ValueError and OSError as ``load`` does."""
    file = folder / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is not JSON: {error}") from error
    name = config.get("architecture", DEFAULT) if isinstance(config, dict) else None
    if not isinstance(name, str):
        raise ValueError(f"{file}: architecture must be a string in a JSON object")
    return name


def _loader(folder: Path, plugin: str) -> Loader:
    if plugin:
        return _imported(plugin)
    name = architecture(folder)
    if name in BUILT_IN:
        return _imported(BUILT_IN[name])
    installed = {point.name: point for point in entry_points(group=ENTRY_POINTS)}
    if name not in installed:
        raise ValueError(_unknown(folder, name, sorted({*BUILT_IN, *installed})))
    loader: Loader = installed[name].load()
    return loader


def _unknown(folder: Path, name: str, known: list[str]) -> str:
    return (
        f"{folder / 'config.json'}: architecture {name!r} is not one of {', '.join(known)}; "
        f"install the package that has it (entry point {name!r} of the group {ENTRY_POINTS}), "
        "or name its loader yourself: plugin = package.module:function"
    )


def _imported(path: str) -> Loader:
    module, _, function = path.partition(":")
    try:
        found: Any = getattr(import_module(module), function) if module and function else None
    except (ImportError, AttributeError) as error:
        raise ValueError(f"plugin {path!r} cannot be imported: {error}") from error
    if not callable(found):
        raise ValueError(f"plugin must be package.module:function, got {path!r}")
    loader: Loader = found
    return loader
