"""The batcher under any order of events: two instances, every forward and the clock held by the test."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import cast

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.support.batcher_rig import PATIENCE, Lane, Rig, Step, Thing, right
from tests.support.span_rig import Recorder, figures
from varl.services.serving.batching.batcher import Batcher
from varl.services.serving.batching.queue import (
    BatchLimits,
    ItemFailedError,
    LateError,
    QueueFullError,
    UnavailableError,
    WrongLengthError,
)
from varl.services.serving.batching.spans import BatchSpans

LIMITS = BatchLimits(max_items=4, max_cost=10, queue_items=6, queue_bytes=60)
CAPACITY = 7.0  # below max_cost: full batches run out of memory, and so does one item alone
LANES = 2


@dataclass
class Submission:
    thing: Thing
    task: asyncio.Task[int]


class BatcherMachine(RuleBasedStateMachine):
    limits = LIMITS

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.lost = self.stopping = self.abandoned = False
        self.closing: asyncio.Task[None] | None = None
        self.submissions: list[Submission] = []
        self.loop = asyncio.new_event_loop()
        self.rig = Rig(capacity=CAPACITY, max_items=LIMITS.max_items, max_cost=LIMITS.max_cost, clock=lambda: self.now)
        self.batcher: Batcher[Thing, int] = Batcher(self.rig.build, self.limits, LANES, clock=lambda: self.now)
        self.recorder = Recorder()
        self.batcher.spans = BatchSpans(self.recorder.tracer)
        self.loop.run_until_complete(self.batcher.start())
        self.settle()

    def busy(self) -> list[Lane]:
        """In the order of what they hold.

        Which thread took which batch is up to the scheduler, and must not decide what happens next.
        """
        held = [(things[0].number, lane) for lane in self.rig.lanes if (things := lane.inside)]
        return [lane for _, lane in sorted(held, key=lambda each: each[0])]

    def stable(self) -> bool:
        """Every living lane is inside the model, or waits with nothing to take."""
        with self.batcher._changed:
            idle, due = self.batcher._idle, self.batcher._queue.seconds_until_due(self.now)
        living = sum(lane.thread.is_alive() for lane in self.rig.lanes)
        return len(self.busy()) + idle == living and (idle == 0 or due is None)

    def settle(self) -> None:
        self.pump_until(self.stable)
        for _ in range(4):  # callbacks that lanes posted, tasks they wake, what those schedule
            self.loop.run_until_complete(asyncio.sleep(0))
        self.pump_until(self.stable)

    def pump_until(self, condition: Callable[[], bool]) -> None:
        began = time.monotonic()
        while not condition():
            assert time.monotonic() - began < PATIENCE, "hung"
            self.loop.run_until_complete(asyncio.sleep(0.0002))

    @rule(
        kinds=st.lists(st.tuples(st.booleans(), st.sampled_from([0.5, 1.0, 3.0, 8.0, 12.0])), min_size=1, max_size=5),
        size=st.integers(0, 25),
        seconds=st.sampled_from([None, 1.0, 5.0, -1.0]),
    )
    def submit(self, kinds: list[tuple[bool, float]], size: int, seconds: float | None) -> None:
        for poison, cost in kinds:
            thing = Thing(len(self.submissions), poison, cost, None if seconds is None else self.now + seconds)
            coroutine = self.batcher.submit(thing, cost=cost, size=size, deadline=thing.deadline)
            with self.recorder.tracer.start_as_current_span("request"):
                self.submissions.append(Submission(thing, self.loop.create_task(coroutine)))
        self.settle()

    @rule(cost=st.sampled_from([0.0, -1.0, float("nan"), float("inf")]))
    def submit_without_a_cost(self, cost: float) -> None:
        with contextlib.suppress(ValueError):
            self.loop.run_until_complete(self.batcher.submit(Thing(-1), cost=cost))
            raise AssertionError("taken")

    @precondition(lambda self: any(not submission.task.done() for submission in self.submissions))
    @rule(pick=st.integers(0, 10**6))
    def cancel(self, pick: int) -> None:
        pending = [submission for submission in self.submissions if not submission.task.done()]
        submission = pending[pick % len(pending)]
        submission.thing.cancelled = True
        submission.task.cancel()
        self.settle()
        assert submission.task.cancelled()

    @rule(seconds=st.sampled_from([0.5, 2.0]))
    def let_time_pass(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: self.busy())
    @rule(pick=st.integers(0, LANES - 1), step=st.sampled_from(["go", "go", "go", "go", "go", "short"]))
    def finish_a_forward(self, pick: int, step: Step) -> None:
        busy = self.busy()
        self.release(busy[pick % len(busy)], step)

    @precondition(lambda self: self.busy() and len(self.submissions) > 12)
    @rule(step=st.sampled_from(["fatal", "exit"]))
    def lose_the_model(self, step: Step) -> None:
        self.lost = True
        self.release(self.busy()[0], step)
        assert self.batcher.fatal.is_set()
        assert self.batcher.waiting == 0

    def release(self, lane: Lane, step: Step) -> None:
        entries = lane.inside
        lane.steps.put(step)
        self.pump_until(lambda: lane.inside is not entries)
        self.settle()

    @precondition(lambda self: not self.closing and len(self.submissions) > 8)
    @rule()
    def close(self) -> None:
        self.stopping = True
        self.closing = self.loop.create_task(self.batcher.close(10 * PATIENCE))
        self.settle()

    @precondition(lambda self: not self.abandoned and len(self.submissions) > 12)
    @rule()
    def close_at_once(self) -> None:
        self.stopping = self.abandoned = True
        self.loop.run_until_complete(self.batcher.close(0))
        self.settle()
        assert all(submission.task.done() for submission in self.submissions)

    @invariant()
    def nothing_forbidden_happened(self) -> None:
        assert self.rig.violations == []
        assert self.batcher.waiting <= LIMITS.queue_items
        assert 0 <= self.batcher.waiting_bytes <= LIMITS.queue_bytes
        assert self.batcher.waiting or not self.batcher.waiting_bytes
        assert not self.lost or self.batcher.fatal.is_set()
        for submission in self.submissions:
            if submission.task.done():
                self.check(submission)

    def check(self, submission: Submission) -> None:
        thing, task = submission.thing, submission.task
        if task.cancelled():
            assert thing.cancelled
            return
        match task.exception():
            case None:
                assert task.result() == right(thing)
            case WrongLengthError():
                assert thing.number in self.rig.shortened
            case ItemFailedError() as error:
                assert thing.poison if "poison" in str(error) else thing.cost > CAPACITY
            case LateError():
                assert thing.deadline is not None
                assert thing.deadline <= self.now
            case UnavailableError():
                assert self.stopping or self.lost
            case other:
                assert isinstance(other, QueueFullError)

    def teardown(self) -> None:
        self.rig.open = True
        for lane in self.busy():
            lane.steps.put("go")
        self.loop.run_until_complete(self.batcher.close(PATIENCE))
        for _ in range(4):
            self.loop.run_until_complete(asyncio.sleep(0))
        assert all(submission.task.done() for submission in self.submissions)
        assert self.closing is None or self.closing.done()
        self.nothing_forbidden_happened()
        for lane in self.rig.lanes:
            lane.thread.join(PATIENCE)
            assert not lane.thread.is_alive()
        spans = self.recorder.named("batch")  # all have ended: each forward is in one of them
        assert sum(cast("int", figures(span)["executions"]) for span in spans) == len(self.rig.forwards)
        assert sum(len(span.events) for span in spans) == len(self.rig.forwards)
        self.loop.close()


class SharingMachine(BatcherMachine):
    limits = replace(LIMITS, share=0.5)


BatcherMachine.TestCase.settings = settings(max_examples=80, stateful_step_count=40)
SharingMachine.TestCase.settings = settings(max_examples=20, stateful_step_count=40)
TestBatcher = BatcherMachine.TestCase
TestSharingBatcher = SharingMachine.TestCase
