"""Low-rank adapters (LoRA, arXiv 2106.09685) in a policy's module, by the library peft.

A linear layer W gets A [rank, in] and B [out, rank] beside it, y = W x + alpha / rank * B A x, and W is frozen. Trainer
and rollout workers apply A and B in this way and never merge them into W: both then do the same arithmetic, so that
their log-probabilities agree as closely as those of one whole module do, and in bfloat16 a merged weight would lose
most of an update, which is far below its rounding. A and B are float32 whatever W is.

peft keeps W of layer x under x.base_layer. The files here have the module's own names: x.weight in those of a whole
model, x.lora_A.weight and x.lora_B.weight in those of adapters, which also name the base that they belong to.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from varl.policy.tensor_files import check_names, save_state

NAME = "trained"  # of the adapters, within peft
ALPHA, BASE = "lora.alpha", "lora.base"  # in a file of adapters: alpha, float64 [1], and the base's mark, uint8 [32]
MARKED = 1024  # elements of a tensor that go into the mark
A, B = ".lora_A.weight", ".lora_B.weight"


@dataclass(frozen=True)
class Lora:
    """Which adapters a module gets.

    rank: of A and B, at least 1. alpha: above 0; what B A is multiplied by is alpha / rank. targets: last parts of the
    names of the linear layers that get them.
    """

    rank: int
    alpha: float
    targets: tuple[str, ...]


def attach(module: nn.Module, lora: Lora, seed: int = 0) -> None:
    """Put fresh adapters into a module; they alone require a gradient from now on.

    A is random and B is 0, so they change nothing yet. seed: of A, whatever torch's global random state is.

    Raises:
        ValueError: a target is the name of no linear layer, or peft is not installed.
    """
    linear = [name for name, part in module.named_modules() if isinstance(part, nn.Linear)]
    unknown = [target for target in lora.targets if not any(_ends(name, target) for name in linear)]
    if unknown or not lora.targets:
        raise ValueError(f"lora.targets: there is no linear layer {', '.join(unknown) or '(none is named)'}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        _inject(module, lora.rank, lora.alpha, [n for n in linear if any(_ends(n, target) for target in lora.targets)])


def is_adapted(module: nn.Module) -> bool:
    """Whether a module has adapters."""
    return bool(_layers(module))


def of_adapters(key: str) -> bool:
    """Whether a key of a module's ``state_dict`` is that of an adapter."""
    return f".{NAME}." in key


@contextmanager
def adapters_off(module: nn.Module) -> Iterator[None]:
    """Within the context the module is its base."""
    layers = _layers(module).values()
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


def trained_state(module: nn.Module) -> dict[str, Tensor]:
    """What is saved and published of a module: its state or, where it has adapters, theirs alone."""
    layers, state = _layers(module), module.state_dict()
    if not layers:
        return state
    return {name + end: state[_inner(name + end)] for end in (A, B) for name in layers} | {
        ALPHA: torch.tensor([_alpha(layers)], dtype=torch.float64),
        BASE: module.get_buffer("lora_base"),
    }


def base_state(module: nn.Module) -> dict[str, Tensor]:
    """The module's state without adapters, by the names that it has without them."""
    state = {name: value for name, value in module.state_dict().items() if not of_adapters(name)}
    return {name.replace(".base_layer.", "."): value for name, value in state.items()}


@torch.no_grad()
def merged_state(module: nn.Module) -> dict[str, Tensor]:
    """The state of a module without adapters that says the same: W + alpha / rank * B A, rounded once to W's dtype."""
    state = base_state(module)
    for name, layer in _layers(module).items():
        added = layer.scaling[NAME] * (layer.lora_B[NAME].weight @ layer.lora_A[NAME].weight)
        weight = state[f"{name}.weight"]
        state[f"{name}.weight"] = (weight.to(torch.float32) + added).to(weight.dtype)
    return state


def save_weights(module: nn.Module, path: Path, dtype: torch.dtype | None = None) -> None:
    """Write ``trained_state``, whole or not at all; a whole module's as ``dtype`` or in its own, adapters in theirs."""
    save_state(trained_state(module), path, None if is_adapted(module) else dtype)


def load_weights(module: nn.Module, path: Path) -> None:
    """Put a file's weights in place: of the whole module, whose adapters then go, or of adapters, attached if need be.

    Raises:
        ValueError: names or shapes differ from the module's, the adapters are those of another base, or the file would
            replace adapters that are being trained by something of another kind.
        OSError: the file cannot be read.
    """
    tensors = load_file(path)  # mapped: what is copied below is the only copy on the module's device
    if ALPHA in tensors:
        _load_adapters(module, tensors, str(path))
        return
    check_names(base_state(module), tensors, str(path))
    _detach(module, str(path))
    module.load_state_dict(tensors)


def _load_adapters(module: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    names = [name.removesuffix(A) for name in tensors if name.endswith(A)]
    rank, alpha = len(tensors[names[0] + A]) if names else 0, float(tensors[ALPHA])
    _check_adapters(module, names, rank, tensors, source)
    layers = _layers(module)
    if (sorted(layers), _rank(layers), _alpha(layers)) != (sorted(names), rank, alpha):
        _detach(module, source)
        _inject(module, rank, alpha, names)
        module.requires_grad_(False)
    state = {_inner(key): value for key, value in tensors.items() if key.endswith((A, B))}
    module.load_state_dict(state, strict=False)  # which knows where weights are spread over processes


def _check_adapters(
    module: nn.Module, names: Sequence[str], rank: int, tensors: Mapping[str, Tensor], source: str
) -> None:
    weights, fits = base_state(module), dict[str, Tensor]()
    for name in names:
        weight = weights.get(f"{name}.weight")
        if weight is None or weight.ndim != 2:
            raise ValueError(f"{source} does not fit this model: there is no linear layer {name}")
        fits |= {name + A: torch.empty(rank, weight.shape[1], device="meta")}
        fits |= {name + B: torch.empty(weight.shape[0], rank, device="meta")}
    mark = module.get_buffer("lora_base") if is_adapted(module) else _mark(module)
    check_names(fits | {ALPHA: torch.empty(1, device="meta"), BASE: mark}, tensors, source)
    if not torch.equal(mark.cpu(), tensors[BASE]):  # a buffer goes where the module goes
        raise ValueError(f"{source} holds adapters of another base than this model")


def _inject(module: nn.Module, rank: int, alpha: float, names: Sequence[str]) -> None:
    try:
        from peft import LoraConfig, inject_adapter_in_model  # takes seconds, and a model without adapters needs none
    except ModuleNotFoundError as error:
        raise ValueError(f"adapters need: pip install 'varl[lora]' (there is no module {error.name} here)") from error
    module.register_buffer("lora_base", _mark(module), persistent=False)
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(names), lora_dropout=0.0)
    inject_adapter_in_model(config, module, NAME)
    for layer in _layers(module).values():
        for part in (layer.lora_A, layer.lora_B):
            part.to(torch.float32)


def _detach(module: nn.Module, source: str) -> None:
    """Put the plain layers back; raises ValueError where the adapters are being trained, an optimiser having them."""
    layers = _layers(module)
    if any(layer.lora_A[NAME].weight.requires_grad for layer in layers.values()):
        raise ValueError(f"{source} holds other weights than the adapters that are being trained")
    for name, layer in layers.items():
        parent, _, own = name.rpartition(".")
        setattr(module.get_submodule(parent), own, layer.base_layer)
    if layers:
        del module.peft_config


def _layers(module: nn.Module) -> dict[str, Any]:
    """The layers that have adapters, of peft's own type, by the names that they have without."""
    return {name: part for name, part in module.named_modules() if hasattr(part, "lora_A")}


def _inner(key: str) -> str:
    """What peft calls the adapter that files of adapters call ``key``."""
    return key.removesuffix(".weight") + f".{NAME}.weight"


def _rank(layers: Mapping[str, Any]) -> int:
    return next((int(layer.r[NAME]) for layer in layers.values()), 0)


def _alpha(layers: Mapping[str, Any]) -> float:
    return next((float(layer.lora_alpha[NAME]) for layer in layers.values()), 0.0)


def _mark(module: nn.Module) -> Tensor:
    """uint8 [32]: a digest by which a base is known, the same for a model that is loaded as float32 or as bfloat16.

    Of names, shapes and some elements of every tensor, as bfloat16; a model without values is known by its shapes.
    """
    digest = hashlib.sha256()
    for name, value in sorted(base_state(module).items()):
        digest.update(f"{name} {tuple(value.shape)}\n".encode())
        if not value.is_meta:
            flat = value.detach().flatten()
            some = flat[:: -(-len(flat) // MARKED)].to("cpu", torch.bfloat16).contiguous()
            digest.update(some.view(torch.uint8).numpy().tobytes())
    return torch.frombuffer(bytearray(digest.digest()), dtype=torch.uint8)


def _ends(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")
