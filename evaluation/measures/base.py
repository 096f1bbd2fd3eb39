"""What a measure is: a total over the images of one prompt and what it is a total of, from which figures are pooled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from varl.v1 import trajectory_pb2

Share = tuple[float, float]  # (total, what it is a total of: words, images, …)


@dataclass(frozen=True)
class Measure:
    """``name`` stands in eval/<name> and in files; ``share`` is taken of a valid group of whole images."""

    name: str
    share: Callable[[trajectory_pb2.Group], Share]


def images(group: trajectory_pb2.Group) -> list[trajectory_pb2.Continuation]:
    """The scored images of a group, one of each candidate."""
    return [candidate.continuations[0] for candidate in group.candidates]
