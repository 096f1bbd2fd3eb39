"""Messages as a stream hands them out, and which of them repeat one another."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from google.protobuf.message import Message

from varl.trajectories.codec import job_of
from varl.v1 import rollout_pb2, trajectory_pb2

T = TypeVar("T", bound=Message)
Key = tuple[str, int]


@dataclass(frozen=True)
class Delivery(Generic[T]):
    """One message as delivered: its entry id in the stream and the number of deliveries so far (1: the first)."""

    entry_id: str
    message: T
    deliveries: int


TrajectoryDelivery = Delivery[trajectory_pb2.Trajectory]


def job_key(job: rollout_pb2.RolloutJob) -> Key:
    """Return (job_id, attempt), by which trajectories are duplicates.

    A job queued again by the trainer is another piece of work.
    """
    return job.job_id, job.attempt


def split_duplicates(
    deliveries: Iterable[TrajectoryDelivery], held: Iterable[Key]
) -> tuple[list[TrajectoryDelivery], list[TrajectoryDelivery]]:
    """Split into (first of each key, repeats of those or of ``held``), both in order."""
    seen = set(held)
    fresh: list[TrajectoryDelivery] = []
    repeats: list[TrajectoryDelivery] = []
    for delivery in deliveries:
        key = job_key(job_of(delivery.message))
        (repeats if key in seen else fresh).append(delivery)
        seen.add(key)
    return fresh, repeats
