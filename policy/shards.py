"""The tensors of a model that lies in one safetensors file or in several, read one at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from varl.policy.tensor_files import check_state


class Shards(Mapping[str, Tensor]):
    """Tensors by name, of ``<stem>.safetensors`` or of the files that ``<stem>.safetensors.index.json`` names.

    A tensor is mapped from its file and not copied, so that memory holds what is used of it; writing to it leaves the
    file as it is.

    Raises:
        ValueError: a file is no safetensors, or the index is not one.
        OSError: a file is missing or cannot be read.
    """

    def __init__(self, folder: Path, stem: str) -> None:
        index = folder / f"{stem}.safetensors.index.json"
        single = folder / f"{stem}.safetensors"
        if single.exists() or not index.exists():
            self.source, self._files = single, _names(single)
        else:
            self.source, self._files = index, _weight_map(index)
        self._open: dict[Path, Any] = {}

    def __getitem__(self, name: str) -> Tensor:
        path = self._files[name]
        if path not in self._open:
            self._open[path] = _opened(path)
        try:
            tensor: Tensor = self._open[path].get_tensor(name)
        except SafetensorError as error:
            raise ValueError(f"{path} has no tensor {name}: {error}") from error
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def assign(module: nn.Module, tensors: Mapping[str, Tensor], source: str, device: str, dtype: torch.dtype) -> None:
    """Make these tensors the weights of ``module``, which may be on the meta device.

    They are taken as they are where they have the device and the dtype already, else moved one at a time: there is
    never a second copy of the model.

    source: what an error names.

    Raises:
        ValueError: names or shapes are not the module's.
    """
    check_state(module, tensors, source)
    state = {name: tensors[name].to(device, dtype) for name in tensors}
    module.load_state_dict(state, assign=True)
    module.to(device, dtype)  # buffers that no file holds


def _opened(path: Path) -> Any:  # noqa: ANN401
    try:
        return safe_open(path, "pt")
    except SafetensorError as error:
        raise ValueError(f"{path} is no safetensors file: {error}") from error


def _names(path: Path) -> dict[str, Path]:
    with _opened(path) as file:
        return dict.fromkeys(file.keys(), path)


def _weight_map(index: Path) -> dict[str, Path]:
    try:
        found = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        files = {name: index.parent / _bare(file) for name, file in found.items()}
        if not files:
            raise ValueError("there is no tensor")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{index}: weight_map must name a file for every tensor: {error!r}") from error
    for path in sorted(set(files.values())):
        wrong = sorted(_names(path).keys() ^ {name for name, file in files.items() if file == path})
        if wrong:
            raise ValueError(f"{path} and {index.name} differ in {', '.join(wrong[:5])}")
    return files


def _bare(name: str) -> str:
    """A file's name, which must not lead out of the folder: the index comes from elsewhere."""
    if Path(name).name != name:
        raise ValueError(f"{name!r} is not the name of a file beside the index")
    return name
