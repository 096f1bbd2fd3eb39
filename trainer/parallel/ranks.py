"""The processes of a run: rank 0 says what all of them do next, and the death of one ends them all."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from varl.launch.supervisor import postponed
from varl.trainer.parallel.wire import Head, broadcast, exchange, pack, unpack

logger = logging.getLogger("trainer")
END = "end"
FOREVER = timedelta(days=20)  # between two orders lies a rollout; deaths are seen by the watch, not by a timeout
BEAT_S = 3600.0
LEAVE_S = 20.0  # for rank 0 to stop what it has started, once another rank is dead

Action = Callable[[Head, dict[str, Tensor]], object]


@dataclass(frozen=True)
class Place:
    """This process among those that torchrun started; ``local``: its number on this machine."""

    rank: int
    size: int
    local: int


def place() -> Place | None:
    """The place that torchrun's variables name; None where it did not start this process. Raises ValueError."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    values = [os.environ.get(name) for name in names]
    if values[0] is None or values[1] is None:
        return None
    try:
        rank, size, local = (int(value or 0) for value in values)
    except ValueError as error:
        raise ValueError(f"{', '.join(names)} must be numbers, got {values}") from error
    return Place(rank, size, local)


class Ranks:
    """All processes of a run, seen from one of them.

    Rank 0 enters ``together`` with an order; the others wait in ``follow`` and then do as it does. Within an order all
    of them run the same code, so that orders inside of it are already being followed.
    """

    def __init__(self, place: Place, mesh: DeviceMesh, control: dist.ProcessGroup) -> None:
        self.place, self.mesh, self.control = place, mesh, control
        self._together = False

    @property
    def leads(self) -> bool:
        """Whether this is rank 0."""
        return self.place.rank == 0

    @contextmanager
    def together(self, order: str, head: Mapping[str, Any] | None = None, **tensors: Tensor) -> Iterator[None]:
        """Give an order, where rank 0 is not following one already; every rank then runs the same block.

        SIGTERM waits for the block's end, so that ranks are never left in the middle of one, out of step.
        """
        if self._together:
            yield
            return
        if not self.leads:
            raise RuntimeError(f"rank {self.place.rank} gives the order {order!r}, which is rank 0's")
        with postponed((signal.SIGTERM,)):
            broadcast(pack({"order": order, **(head or {})}, tensors), self.control)
            self._together = True
            try:
                yield
            finally:
                self._together = False

    def follow(self, actions: Mapping[str, Action]) -> None:
        """Do what rank 0 orders, by the order's name, until the run's end.

        SIGTERM waits until then: it is rank 0 that saves and ends the run, and for that it needs the others.
        """
        self._together = True
        with postponed((signal.SIGTERM,)):
            while True:
                try:
                    head, tensors = unpack(broadcast(None, self.control))
                except RuntimeError:  # a broken connection, which the watch may see a moment later
                    _end_as(0)
                if head["order"] == END:
                    return
                actions[head["order"]](head, tensors)

    def total(self, value: Tensor) -> Tensor:
        """The sum of all ranks' values, on the CPU and the same at each of them."""
        summed = value.detach().to("cpu", copy=True)
        dist.all_reduce(summed, group=self.control)
        return summed

    def exchange(self, message: bytes) -> list[bytes]:
        """What each rank gives, in their order, at every rank."""
        return exchange(message, self.control)


@contextmanager
def joined(place: Place, device: str) -> Iterator[Ranks]:
    """Meet the other processes, and leave together.

    Orders and bytes go over gloo, weights and gradients over what ``device`` has. Where the block of a rank raises, its
    process ends, and with it all others.
    """
    kind = torch.device(device).type
    if kind == "cuda":
        torch.cuda.set_device(place.local)  # which "cuda" means from now on
    dist.init_process_group("gloo" if kind == "cpu" else f"cpu:gloo,{kind}:nccl")
    mesh = init_device_mesh(kind, (place.size,), mesh_dim_names=("ranks",))
    ranks = Ranks(place, mesh, dist.new_group(backend="gloo", timeout=FOREVER))
    watch = Watch(place, dist.new_group(backend="gloo", timeout=FOREVER))
    yield ranks
    if ranks.leads:
        broadcast(pack({"order": END}, {}), ranks.control)
    watch.over()
    dist.barrier(ranks.control)
    dist.destroy_process_group()


class Watch:
    """Ends this process where another one has ended before the run, whatever either was doing.

    A thread waits for numbers, and the connection breaks with the process at its other end. Rank 0 waits for all, the
    others for rank 0, whose end they then share. A number comes every ``BEAT_S``, since no wait may last longer than
    FOREVER; it is 1 at the run's end and 0 before.
    """

    def __init__(self, place: Place, group: dist.ProcessGroup) -> None:
        self._leads, self._group = place.rank == 0, group
        others = range(1, place.size) if self._leads else [0]
        self._threads = {other: threading.Thread(target=self._wait, args=(other,), daemon=True) for other in others}
        self._over = threading.Event()
        self._beats = threading.Thread(target=self._beat, daemon=True)
        for thread in (*self._threads.values(), self._beats):
            thread.start()

    def over(self) -> None:
        """Let the others go, and wait until they do; all ranks must call this.

        A thread that still waited for one when Python ends would end this process by SIGABRT.
        """
        self._over.set()
        for thread in (self._beats, *self._threads.values()):
            thread.join()

    def _beat(self) -> None:
        with suppress(RuntimeError):  # the other one is dead, which its own thread sees
            while not self._over.wait(BEAT_S):
                self._send(0)
            self._send(1)

    def _send(self, number: int) -> None:
        for other in self._threads:
            dist.send(torch.tensor([float(number)]), other, self._group)

    def _wait(self, other: int) -> None:
        number = torch.zeros(1)
        try:
            while not number.item():
                dist.recv(number, other, self._group)
        except RuntimeError:
            _end_as(other, LEAVE_S if self._leads else 0)


def _end_as(other: int, patience_s: float = 0) -> NoReturn:
    """End this process as another one has: at once, or as SIGTERM does, which stops what it has started.

    At once as well where that takes too long.
    """
    logger.error("rank %d has ended, and so does this process; --resume goes on", other)
    if patience_s:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(patience_s)
    os._exit(1)
