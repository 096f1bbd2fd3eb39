"""The batcher answers items of many requests in batches, by model instances that each live on their own thread."""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Generic

from varl.services.serving.batching.forward import Execution, Fault, Model, Result, forward
from varl.services.serving.batching.queue import (
    Answer,
    Batch,
    BatchLimits,
    BatchQueue,
    Entry,
    Failed,
    Item,
    LateError,
    UnavailableError,
)
from varl.services.serving.batching.spans import BatchSpans


class Batcher(Generic[Item, Answer]):
    """Runs a model over what requests submit. Belongs to one event loop.

    ``lanes`` threads each build, and alone use, one instance. A model takes items and gives as many answers, in their
    order. What it raises says how the batch goes on: MemoryError, it did not fit (run again in parts, and later batches
    are kept smaller); FatalModelError, the instance is lost (``fatal`` is set, everything fails as unavailable);
    anything else, some item is bad (run again in halves until it stands alone).

    ``fatal`` is for the code that ends the process. ``observe`` is called on the loop with each forward. ``spans``, if
    set before the start, traces the batches.
    """

    def __init__(
        self,
        build: Callable[[], Model[Item, Answer]],
        limits: BatchLimits,
        lanes: int = 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._build = build
        self._clock = clock
        self._queue: BatchQueue[Item, Answer] = BatchQueue(limits)
        self._running: set[Batch[Item, Answer]] = set()
        self._changed = threading.Condition(threading.Lock())  # guards the queue and the fields down to _waking
        self._closed = ""  # why nothing is taken any more
        self._idle = 0
        self._waking = False
        self._lanes = lanes
        self._alive = 0
        self._ended = asyncio.Event()
        self.fatal = asyncio.Event()
        self.observe: Callable[[Execution], None] = lambda _: None
        self.spans: BatchSpans | None = None

    @property
    def waiting(self) -> int:
        """Items that no forward has had yet."""
        return len(self._queue)

    @property
    def waiting_bytes(self) -> int:
        """Their sizes together."""
        return self._queue.bytes

    @property
    def ceiling(self) -> float:
        """The cost that batches keep to now; below the limit once memory ran out."""
        return self._queue.ceiling

    async def start(self) -> None:
        """Build every instance; raises what building the first that fails raised."""
        self._loop = asyncio.get_running_loop()
        built: list[asyncio.Future[None]] = [self._loop.create_future() for _ in range(self._lanes)]
        self._alive = self._lanes
        for future in built:
            threading.Thread(target=self._work, args=(future,), daemon=True, name="model").start()
        await asyncio.gather(*built)

    async def submit(self, item: Item, *, cost: float = 1.0, size: int = 0, deadline: float | None = None) -> Answer:
        """The model's answer to one item. Cancelling drops the item if no forward holds it yet.

        ``cost`` is in the unit of the limits, ``size`` in bytes, ``deadline`` on the monotonic clock; an item that no
        forward has by then gets none.

        Raises:
            ItemFailedError: the model fails on this item; WrongLengthError: on how many answers it gave to its batch.
            LateError: the deadline passed first.
            QueueFullError: no room.
            UnavailableError: the batcher was closed, or its model is lost.
            ValueError: the cost is not a positive number, or the size is negative.

        """
        if not 0 < cost < math.inf or size < 0:
            raise ValueError(f"cost {cost} must be positive and finite, size {size} must not be negative")
        now = self._clock()
        origin = None if self.spans is None else self.spans.origin()
        entry = Entry(
            item, cost, size, math.inf if deadline is None else deadline, now, self._loop.create_future(), origin
        )
        if entry.deadline <= now:
            raise LateError("the deadline has passed")
        with self._changed:
            if self._closed:
                raise UnavailableError(self._closed)
            self._queue.add(entry)
            wake = self._idle > 0 and not self._waking
            self._waking = self._waking or wake
        if wake:
            self._loop.call_soon(
                self._wake
            )  # after what else submits in this turn of the loop, so that it shares the batch
        return await self._outcome(entry)

    async def _outcome(self, entry: Entry[Item, Answer]) -> Answer:
        try:
            outcome = await entry.answer
        except asyncio.CancelledError:
            with self._changed:
                self._queue.discard(entry)
            raise
        if isinstance(outcome, Failed):
            raise outcome.error
        return outcome

    def _wake(self) -> None:
        with self._changed:
            self._waking = False
            self._changed.notify()

    async def close(self, grace: float = 10.0) -> None:
        """Take nothing more, answer what waits for up to ``grace`` seconds, then fail the rest as unavailable."""
        with self._changed:
            self._closed = self._closed or "the service is shutting down"
            self._changed.notify_all()
        try:
            async with asyncio.timeout(grace):
                while self._alive:
                    await self._ended.wait()
                    self._ended.clear()
        except TimeoutError:
            self._fail(self._abandon(), UnavailableError, "the service was shut down before the model answered")

    def _abandon(self) -> list[Entry[Item, Answer]]:
        with self._changed:
            entries = [*self._queue.clear(), *(entry for batch in self._running for entry in batch.entries)]
            if self.spans is not None:
                self.spans.end_all_but(self._unsettled())
            return entries

    def _unsettled(self) -> Iterable[Batch[Item, Answer]]:
        """Batches that run, or wait to run again."""
        return (*self._running, *self._queue.repeats)

    # On the lanes' threads.

    def _work(self, built: asyncio.Future[None]) -> None:
        try:
            model = self._build()
        except BaseException as error:  # handed to whoever awaits start
            self._post(_set_built, built, error)
        else:
            self._post(_set_built, built, None)
            while self._turn(model):
                pass
        self._post(self._lane_ended)

    def _turn(self, model: Model[Item, Answer]) -> bool:
        """One batch, nothing of which is kept while the lane waits for the next; False at the end."""
        batch = self._next()
        if batch is not None:
            self._execute(model, batch)
        return batch is not None

    def _next(self) -> Batch[Item, Answer] | None:
        """Wait for a batch; None once closed and nothing is left."""
        with self._changed:
            while True:
                due = self._queue.seconds_until_due(self._clock())
                if self._closed and due is None:
                    return None
                if due is not None and (due <= 0 or self._closed):
                    batch = self._take()
                    if batch is not None:
                        return batch
                    continue
                self._idle += 1
                self._changed.wait(due)
                self._idle -= 1

    def _take(self) -> Batch[Item, Answer] | None:
        batch, late = self._queue.take(self._clock())
        if late:
            self._post(self._fail, late, LateError, "the deadline passed while waiting for the model")
        if batch is not None:
            self._running.add(batch)
            if self._idle and self._queue.seconds_until_due(self._clock()) is not None:
                self._changed.notify()  # there is work for another lane
        if self.spans is not None:
            self.spans.taken(batch, self._unsettled())
        return batch

    def _execute(self, model: Model[Item, Answer], batch: Batch[Item, Answer]) -> None:
        began = self._clock()
        answers = forward(model, [entry.item for entry in batch.entries])
        result = answers.result if isinstance(answers, Fault) else Result.OK
        waits = () if batch.again else tuple(began - entry.submitted for entry in batch.entries)
        execution = Execution(len(batch.entries), result, self._clock() - began, waits)
        with self._changed:
            self._running.discard(batch)
            guilty = self._reschedule(batch, result)
            if self.spans is not None:
                self.spans.executed(batch, execution, bool(guilty), self._unsettled())
        if isinstance(answers, Fault):
            self._post(self._failed, execution, guilty, answers)
        else:
            self._post(self._succeeded, execution, batch.entries, answers)

    def _reschedule(self, batch: Batch[Item, Answer], result: Result) -> Sequence[Entry[Item, Answer]]:
        """Queue again what deserves another forward; the entries that this result settles."""
        alone = len(batch.entries) == 1
        match result:
            case Result.OK:
                self._queue.succeeded(batch)
            case Result.FATAL:
                self._closed = self._closed or "the model is lost"
                self._changed.notify_all()
                return [*batch.entries, *self._queue.clear()]
            case Result.OUT_OF_MEMORY if alone:
                self._queue.exonerate(batch)
            case Result.OUT_OF_MEMORY:
                self._queue.shrink(batch)
                return ()
            case Result.FAILED if not alone:
                self._queue.halve(batch)
                return ()
        return batch.entries

    def _post(self, function: Callable[..., None], *arguments: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(function, *arguments)

    # On the loop again.

    def _succeeded(
        self, execution: Execution, entries: Sequence[Entry[Item, Answer]], answers: Sequence[Answer]
    ) -> None:
        for entry, answer in zip(entries, answers, strict=True):
            if not entry.answer.done():
                entry.answer.set_result(answer)
        self.observe(execution)

    def _failed(self, execution: Execution, entries: Iterable[Entry[Item, Answer]], fault: Fault) -> None:
        self._fail(entries, fault.kind, fault.detail)
        if fault.result is Result.FATAL:
            self.fatal.set()
        self.observe(execution)

    def _fail(self, entries: Iterable[Entry[Item, Answer]], kind: type[Exception], detail: str) -> None:
        for entry in entries:
            if not entry.answer.done():
                entry.answer.set_result(Failed(kind(detail)))

    def _lane_ended(self) -> None:
        self._alive -= 1
        self._ended.set()


def _set_built(built: asyncio.Future[None], error: BaseException | None) -> None:
    if built.done():
        return
    if error is None:
        built.set_result(None)
    else:
        built.set_exception(error)
