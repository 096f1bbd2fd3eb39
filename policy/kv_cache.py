"""Keys and values that a sampler keeps: memory set aside once, which states that continue one another share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")
KeyValue = tuple[Tensor, Tensor]  # each [B or 1, heads, N, head size]
Segment = list[KeyValue]  # (keys, values) of one stretch of the sequence, a pair per layer
CACHED = 512  # places whose activations a CPU's second-level cache holds


def repeat(x: Tensor, copies: int) -> Tensor:
    """Every row ``copies`` times, next to each other."""
    return x.repeat_interleave(copies, dim=0) if copies > 1 else x


def concatenated(parts: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Parts one after the other; a single one as it is, not copied."""
    return torch.cat(list(parts), dim) if len(parts) > 1 else parts[0]


@dataclass
class _Memory:
    """Room for keys and values [layers, 2, B, heads, places, head size], the first ``taken`` places of which are."""

    room: Tensor
    taken: int


@dataclass(frozen=True)
class KVCache:
    """The first ``length`` places of a memory, for B candidates; the values of a cache never change.

    Caches that continue one another share their memory. The first continuation of a cache goes on in place, where
    there is room; every other one is a copy, so that a cache can be continued any number of times.
    """

    memory: _Memory
    length: int

    @classmethod
    def of(cls, segment: Segment) -> KVCache:
        """A cache that holds one stretch."""
        room = torch.stack([torch.stack(pair) for pair in segment])
        return cls(_Memory(room, room.shape[4]), room.shape[4])

    @classmethod
    def empty(cls, shape: Sequence[int], like: Tensor) -> KVCache:
        """A cache of no places, [layers, 2, B, heads, 0, head size]."""
        return cls(_Memory(like.new_empty(shape), 0), 0)

    @property
    def batch(self) -> int:
        """B, the number of candidates."""
        return int(self.memory.room.shape[2])

    def continued(self, places: int, room: int, copies: int = 1) -> KVCache:
        """A cache of ``places`` more places, still to be written, of every candidate ``copies`` times.

        room: places that a new memory has at least, where one is needed.
        """
        if not places and copies == 1:
            return self
        taken, there = self.length + places, self.memory.room.shape[4]
        if copies > 1 or self.memory.taken != self.length or taken > there:
            return KVCache(self._copied(max(room, taken), copies, taken), taken)
        self.memory.taken = taken
        return KVCache(self.memory, taken)

    def layer(self, index: int, rows: slice) -> KeyValue:
        """Keys and values [rows, heads, length, head size] of some candidates in a layer; views, to be written to."""
        keys, values = self.memory.room[index, :, rows, :, : self.length]
        return keys, values

    def _copied(self, places: int, copies: int, taken: int) -> _Memory:
        layers, two, batch, heads, _, size = self.memory.room.shape
        room = self.memory.room.new_empty(layers, two, batch, copies, heads, places, size)
        room[..., : self.length, :] = self.memory.room[:, :, :, None, :, : self.length]
        return _Memory(room.flatten(2, 3), taken)


@dataclass(frozen=True)
class Lane:
    """A layer's keys and values of what a prompt's branch has seen, for some candidates, each [rows, heads, N, size].

    new: how many of the last places are those of the scale that is sampled now; 0 where its keys are not kept.
    """

    keys: Tensor
    values: Tensor
    new: int

    def seen(self, keys: Tensor, values: Tensor) -> KeyValue:
        """All keys and values with those of the scale, [rows, heads, n, size]; they are written where they are kept."""
        if not self.new:
            return torch.cat([self.keys, keys], 2), torch.cat([self.values, values], 2)
        self.keys[:, :, -self.new :] = keys
        self.values[:, :, -self.new :] = values
        return self.keys, self.values


def lanes(caches: Sequence[KVCache], layer: int, rows: slice, new: int) -> list[Lane]:
    """A layer's lane of every cache, each with the same rows."""
    return [Lane(*cache.layer(layer, rows), new) for cache in caches]


@dataclass(frozen=True)
class Slice:
    """What goes through a model together: some prompts, and of each the same rows of its candidates."""

    prompts: slice
    rows: slice

    def of(self, lanes: Sequence[T], prompts: int) -> list[T]:
        """Those of lanes that belong to its prompts; a branch's ``prompts`` lanes stand next to each other."""
        return [
            lane for first in range(0, len(lanes), prompts) for lane in lanes[first : first + prompts][self.prompts]
        ]


def slices(prompts: int, batch: int, places: int, device: torch.device) -> list[Slice]:
    """All of ``batch`` candidates of each of ``prompts`` prompts, in order: on a CPU in parts that its caches hold.

    places: those of one candidate. The activations of a few hundred stay in a CPU's second-level cache from one
    operation to the next.
    """
    if device.type != "cpu":
        return [Slice(slice(0, prompts), slice(0, batch))]
    size = max(1, CACHED // places)
    together = max(1, size // batch)
    return [
        Slice(slice(prompt, min(prompt + together, prompts)), slice(row, min(row + size, batch)))
        for prompt in range(0, prompts, together)
        for row in range(0, batch, size)
    ]
