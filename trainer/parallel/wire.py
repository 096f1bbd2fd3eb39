"""What ranks tell one another, as bytes: a JSON line, then tensors as safetensors. Nothing is pickled."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load, save
from torch import Tensor

from varl.policy.base import SamplingParams
from varl.trainer.step.batch import GroupBatch
from varl.trainer.step.metrics import Measured

Head = dict[str, Any]  # JSON
TENSORS = ("tokens", "reported", "mask", "total", "values")


def pack(head: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> bytes:
    """One message."""
    held = {name: value.detach().to("cpu", copy=True).contiguous() for name, value in tensors.items()}
    return json.dumps(dict(head)).encode() + b"\n" + save(held)


def unpack(message: bytes) -> tuple[Head, dict[str, Tensor]]:
    """What ``pack`` was given."""
    head, _, tensors = message.partition(b"\n")
    return json.loads(head), load(tensors)


def pack_groups(groups: Sequence[GroupBatch]) -> tuple[list[Head], dict[str, Tensor]]:
    """Groups as JSON and tensors, all that an update needs of them."""
    tensors = {f"{i}.{name}": getattr(group, name) for i, group in enumerate(groups) for name in TENSORS}
    return [_head(group) for group in groups], tensors


def unpack_groups(heads: Sequence[Head], tensors: Mapping[str, Tensor]) -> list[GroupBatch]:
    """What ``pack_groups`` was given, without the rewards by name."""
    return [_group(head, {name: tensors[f"{i}.{name}"] for name in TENSORS}) for i, head in enumerate(heads)]


def _head(group: GroupBatch) -> Head:
    return {
        "prompt": group.prompt,
        "scales": [group.scales.start, group.scales.stop],
        "steps": list(group.steps),
        "staleness": group.staleness,
        "sampling": asdict(group.sampling) if group.sampling else None,
    }


def _group(head: Head, tensors: Mapping[str, Tensor]) -> GroupBatch:
    return GroupBatch(
        prompt=head["prompt"],
        scales=range(*head["scales"]),
        steps=tuple(head["steps"]),
        rewards={},
        staleness=head["staleness"],
        sampling=SamplingParams(**head["sampling"]) if head["sampling"] else None,
        **tensors,
    )


def pack_measured(measured: Mapping[int, Measured]) -> bytes:
    """What passes saw, by their index."""
    return pack({}, {f"{i}.{name}": value for i, one in measured.items() for name, value in vars(one).items()})


def unpack_measured(message: bytes) -> dict[int, Measured]:
    """What ``pack_measured`` was given, on the CPU."""
    found: dict[int, dict[str, Tensor]] = {}
    for key, value in unpack(message)[1].items():
        index, name = key.split(".")
        found.setdefault(int(index), {})[name] = value
    return {index: Measured(**values) for index, values in found.items()}


def broadcast(message: bytes | None, group: dist.ProcessGroup) -> bytes:
    """What rank 0 gives, at every rank; the others give None."""
    length = torch.tensor([len(message or b"")])
    dist.broadcast(length, 0, group)
    data = _bytes(message, int(length))
    dist.broadcast(data, 0, group)
    return data.numpy().tobytes()


def exchange(message: bytes, group: dist.ProcessGroup) -> list[bytes]:
    """What each rank gives, at every rank."""
    lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(group.size())]
    dist.all_gather(lengths, torch.tensor([len(message)]), group)
    longest = max(int(length) for length in lengths)
    parts = [torch.empty(longest, dtype=torch.uint8) for _ in lengths]
    dist.all_gather(parts, _bytes(message.ljust(longest, b"\0"), longest), group)
    return [part.numpy().tobytes()[: int(length)] for part, length in zip(parts, lengths, strict=True)]


def _bytes(message: bytes | None, length: int) -> Tensor:
    if message is None:
        return torch.empty(length, dtype=torch.uint8)
    return torch.frombuffer(bytearray(message), dtype=torch.uint8)
