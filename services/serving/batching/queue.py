"""How waiting items become batches: the part of the batcher that knows no threads and no event loop."""

from __future__ import annotations

import math
from asyncio import Future
from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from opentelemetry.trace import Span, SpanContext

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class ItemFailedError(Exception):
    """The model fails on this item, whichever batch it stands in."""


class WrongLengthError(ItemFailedError):
    """The model gave more or fewer answers than there were items; nobody knows which answer is whose."""


class QueueFullError(Exception):
    """No room in the queue; the message says in which unit."""


class LateError(Exception):
    """The deadline passed before the model had the item."""


class UnavailableError(Exception):
    """The batcher is closed or its model is lost; the same item may succeed elsewhere or later."""


class FatalModelError(Exception):
    """Raised by a model that can never work again in this process.

    The cause may be an illegal memory access on the accelerator, for example.
    """


@dataclass(frozen=True)
class Failed:
    """What stands in place of an answer."""

    error: Exception


@dataclass(frozen=True)
class BatchLimits:
    """Bounds of one batch and of the queue.

    ``max_cost`` bounds the sum of the items' costs, in a unit of the model's choosing, for example pixels; an item that
    costs more goes alone. ``share``, in (0, 1], is how much of what waits one batch may take, at least one item: for
    models whose time grows with every item. ``max_wait`` is how many seconds a free model waits for a fuller batch, 0
    takes what there is; an item whose deadline comes sooner is late.
    """

    max_items: int = 1
    max_cost: float = math.inf
    max_wait: float = 0.0
    share: float = 1.0
    queue_items: int = 1024
    queue_bytes: int = 2**30


@dataclass(eq=False, slots=True)
class Entry(Generic[Item, Answer]):
    """An item on its way.

    ``deadline`` and ``submitted`` on the monotonic clock, ``origin`` the span of a traced request.
    """

    item: Item
    cost: float
    size: int
    deadline: float
    submitted: float
    answer: Future[Answer | Failed]
    origin: SpanContext | None = None


@dataclass(eq=False, slots=True)
class BatchSpan:
    """The span of a batch and of the parts that it was cut into."""

    span: Span
    executions: int = 0
    failed: int = 0


@dataclass(eq=False, slots=True)
class Batch(Generic[Item, Answer]):
    """Entries for one forward.

    ``again``: some forward with them failed; ``ceiling``: the ceiling before they ran out of memory; ``span``: shared
    with the batch that they were cut out of, None where nothing is traced.
    """

    entries: list[Entry[Item, Answer]]
    again: bool = False
    ceiling: float | None = None
    span: BatchSpan | None = None

    @property
    def cost(self) -> float:
        """Sum over the entries."""
        return sum(entry.cost for entry in self.entries)


class BatchQueue(Generic[Item, Answer]):
    """First come, first served.

    Parts of a batch that failed take turns with fresh work, so that neither starves the other.

    A failed batch is halved until the guilty items stand alone: at most 2·log2(n) + 1 forwards for one guilty item
    among n, 2·n - 1 whatever happens. Running out of memory lowers ``ceiling``, the cost that later batches keep to.
    """

    def __init__(self, limits: BatchLimits) -> None:
        self._limits = limits
        self._fresh: OrderedDict[Entry[Item, Answer], None] = OrderedDict()
        self._again: deque[Batch[Item, Answer]] = deque()
        self._fresh_next = False
        self._cost = 0.0
        self._proven = 0.0  # greatest cost known to fit
        self.bytes = 0
        self.ceiling = limits.max_cost

    def __len__(self) -> int:
        return len(self._fresh)

    @property
    def repeats(self) -> Iterable[Batch[Item, Answer]]:
        """Parts of failed batches that wait for another forward."""
        return self._again

    def add(self, entry: Entry[Item, Answer]) -> None:
        """Queue an entry; raises QueueFullError."""
        limits = self._limits
        if len(self._fresh) >= limits.queue_items:
            raise QueueFullError(f"{len(self._fresh)} items wait, at most {limits.queue_items} may")
        if self.bytes + entry.size > limits.queue_bytes:
            raise QueueFullError(f"{self.bytes} bytes wait, {entry.size} more would be over {limits.queue_bytes}")
        self._fresh[entry] = None
        self.bytes += entry.size
        self._cost += entry.cost

    def discard(self, entry: Entry[Item, Answer]) -> None:
        """Forget an entry if it still waits for its first forward."""
        if entry in self._fresh:
            self._remove(entry)

    def seconds_until_due(self, now: float) -> float | None:
        """When to call ``take``: 0 for at once, None while there is nothing to take."""
        if self._again:
            return 0.0
        if not self._fresh:
            return None
        limits = self._limits
        if limits.max_wait <= 0 or len(self._fresh) >= limits.max_items or self._cost >= self.ceiling:
            return 0.0
        return max(0.0, next(iter(self._fresh)).submitted + limits.max_wait - now)

    def take(self, now: float) -> tuple[Batch[Item, Answer] | None, list[Entry[Item, Answer]]]:
        """The next batch if any, and the entries that were found late.

        Those that nobody waits for any more are dropped.
        """
        late: list[Entry[Item, Answer]] = []
        if self._again and not (self._fresh_next and self._fresh):
            self._fresh_next = True
            batch = self._again.popleft()
            batch.entries = [entry for entry in batch.entries if _wanted(entry, now, late)]
        else:
            self._fresh_next = False
            batch = Batch(self._take_fresh(now, late))
        return (batch if batch.entries else None), late

    def _take_fresh(self, now: float, late: list[Entry[Item, Answer]]) -> list[Entry[Item, Answer]]:
        taken: list[Entry[Item, Answer]] = []
        cost = 0.0
        most = min(self._limits.max_items, math.ceil(self._limits.share * len(self._fresh)))
        while self._fresh and len(taken) < most:
            entry = next(iter(self._fresh))
            if not _wanted(entry, now, late):
                self._remove(entry)
                continue
            cost += entry.cost
            if taken and cost > self.ceiling:
                break
            self._remove(entry)
            taken.append(entry)
        return taken

    def _remove(self, entry: Entry[Item, Answer]) -> None:
        del self._fresh[entry]
        self.bytes -= entry.size
        self._cost = self._cost - entry.cost if self._fresh else 0.0  # no rounding left behind

    def succeeded(self, batch: Batch[Item, Answer]) -> None:
        """Remember that a batch of this cost fits."""
        self._proven = max(self._proven, batch.cost)

    def halve(self, batch: Batch[Item, Answer]) -> None:
        """Run both halves of a failed batch of two or more later, the first one first."""
        middle = len(batch.entries) // 2
        self._repeat(batch, batch.entries[:middle], batch.entries[middle:])

    def shrink(self, batch: Batch[Item, Answer]) -> None:
        """Run a batch of two or more that did not fit into memory later, in parts under the lowered ceiling."""
        failed = batch.cost
        if self._proven >= failed:  # no longer true, memory fills up
            self._proven = 0.0
        if batch.ceiling is None:
            batch.ceiling = self.ceiling
        self.ceiling = min(self.ceiling, max(self._proven, failed / 2))
        self._repeat(batch, *_parts(batch.entries, self.ceiling))

    def exonerate(self, batch: Batch[Item, Answer]) -> None:
        """Lift the ceiling again, since a single item that ran out of memory was to blame.

        Items like it must not make all batches small.
        """
        if batch.ceiling is not None:
            self.ceiling = max(self.ceiling, batch.ceiling)

    def _repeat(self, batch: Batch[Item, Answer], *parts: list[Entry[Item, Answer]]) -> None:
        self._again.extendleft(Batch(part, True, batch.ceiling, batch.span) for part in reversed(parts))

    def clear(self) -> list[Entry[Item, Answer]]:
        """Take out everything that waits."""
        entries = [*self._fresh, *(entry for batch in self._again for entry in batch.entries)]
        self._fresh.clear()
        self._again.clear()
        self.bytes, self._cost = 0, 0.0
        return entries


def _wanted(entry: Entry[Item, Answer], now: float, late: list[Entry[Item, Answer]]) -> bool:
    if entry.answer.done():
        return False
    if entry.deadline <= now:
        late.append(entry)
        return False
    return True


def _parts(entries: Iterable[Entry[Item, Answer]], most: float) -> list[list[Entry[Item, Answer]]]:
    """Consecutive runs of cost ``most`` or less each; an entry that costs more stands alone."""
    parts: list[list[Entry[Item, Answer]]] = []
    cost = math.inf
    for entry in entries:
        cost += entry.cost
        if cost > most:
            parts.append([])
            cost = entry.cost
        parts[-1].append(entry)
    return parts
