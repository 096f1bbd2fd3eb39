"""Spans of batches, by OpenTelemetry's own SDK.

What they link to and say, however a batch goes, and that each of them ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

from tests.support.batcher_rig import Rig, Step, Thing, held, inside, until
from tests.support.service_rig import POISON, BrightnessScorer, batch, until_in_model
from tests.support.span_rig import Recorder, figures
from varl.services.serving.batching.batcher import Batcher
from varl.services.serving.batching.queue import BatchLimits
from varl.services.serving.batching.spans import BatchSpans
from varl.services.serving.service import ScoringService
from varl.services.serving.settings import ServingSettings


@asynccontextmanager
async def traced(rig: Rig, limits: BatchLimits, lanes: int = 1) -> AsyncIterator[tuple[Batcher[Thing, int], Recorder]]:
    recorder = Recorder()
    batcher: Batcher[Thing, int] = Batcher(rig.build, limits, lanes)
    batcher.spans = BatchSpans(recorder.tracer)
    await batcher.start()
    try:
        yield batcher, recorder
    finally:
        rig.open = True
        for lane in rig.lanes:
            lane.steps.put("go")
        await batcher.close()


async def ask(recorder: Recorder, batcher: Batcher[Thing, int], things: Sequence[Thing]) -> list[int | BaseException]:
    """One request, which is traced, with some items."""
    with recorder.tracer.start_as_current_span("request"):
        return await asyncio.gather(
            *(batcher.submit(thing, cost=thing.cost) for thing in things), return_exceptions=True
        )


def links(span: ReadableSpan) -> set[int]:
    return {link.context.span_id for link in span.links}


def ids(spans: Sequence[ReadableSpan]) -> set[int]:
    return {span.context.span_id for span in spans}


def forwards(span: ReadableSpan) -> list[tuple[object, object]]:
    return [(dict(event.attributes or {})["items"], dict(event.attributes or {})["result"]) for event in span.events]


async def test_a_batch_of_two_requests_links_to_both_and_is_in_neither_ones_trace() -> None:
    rig = Rig()
    async with traced(rig, BatchLimits(8)) as (batcher, recorder):
        untraced = await held(rig, batcher, Thing(0))
        requests = ([Thing(1, cost=2.0), Thing(2)], [Thing(3)])
        asked = [asyncio.create_task(ask(recorder, batcher, things)) for things in requests]
        await until(lambda: batcher.waiting == 3)
        rig.lanes[0].steps.put("go")
        await inside(rig.lanes[0], 1, 2, 3)
        assert recorder.named("batch") == []  # the first batch has no request that is traced, the second still runs
        rig.lanes[0].steps.put("go")
        assert await asyncio.gather(*asked) == [[8, 15], [22]]
        await untraced
    (span,), callers = recorder.named("batch"), recorder.named("request")
    assert links(span) == ids(callers)
    assert len(span.links) == 2
    assert span.parent is None
    assert span.context.trace_id not in {caller.context.trace_id for caller in callers}
    assert figures(span) == {"size": 3, "cost": 4.0, "executions": 1, "failed": 0}
    assert forwards(span) == [(3, "ok")]
    assert span.status.status_code is trace.StatusCode.UNSET
    assert span.start_time is not None
    assert span.end_time is not None
    assert span.start_time <= span.events[0].timestamp <= span.end_time


async def test_a_bisected_batch_is_one_span_over_all_its_forwards_and_what_comes_between_is_not_in_it() -> None:
    rig = Rig()
    async with traced(rig, BatchLimits(4)) as (batcher, recorder):
        first = await held(rig, batcher, Thing(0))
        poisoned = asyncio.create_task(ask(recorder, batcher, [Thing(n, poison=n == 3) for n in (1, 2, 3, 4)]))
        await until(lambda: batcher.waiting == 4)
        fresh = asyncio.create_task(ask(recorder, batcher, [Thing(5)]))
        await until(lambda: batcher.waiting == 5)
        rig.open = True
        rig.lanes[0].steps.put("go")
        answers = await poisoned
        assert await fresh == [36]
        await first
    assert [isinstance(answer, int) for answer in answers] == [True, True, False, True]
    spans = {span.attributes["varl.batch.size"]: span for span in recorder.named("batch") if span.attributes}
    assert figures(spans[4]) == {"size": 4, "cost": 4.0, "executions": 5, "failed": 1}
    assert sorted(map(str, forwards(spans[4]))) == sorted(
        map(str, [(4, "failed"), (2, "ok"), (2, "failed"), (1, "failed"), (1, "ok")])
    )
    assert spans[4].status.status_code is trace.StatusCode.ERROR
    assert figures(spans[1]) == {"size": 1, "cost": 1.0, "executions": 1, "failed": 0}
    assert len(spans) == len(recorder.named("batch")) == 2


async def test_memory_that_ran_out_is_a_forward_of_the_span_and_no_failed_item() -> None:
    rig = Rig(open=True, capacity=2.0)
    async with traced(rig, BatchLimits(8)) as (batcher, recorder):
        assert await ask(recorder, batcher, [Thing(n) for n in (1, 2, 3, 4)]) == [8, 15, 22, 29]
    spans = recorder.named("batch")
    assert sum(1 for span in spans for _, result in forwards(span) if result == "out_of_memory") >= 1
    assert (
        sum(items for span in spans for items, result in forwards(span) if result == "ok" and isinstance(items, int))
        == 4
    )
    assert {figures(span)["failed"] for span in spans} == {0}


async def test_a_part_that_nobody_waits_for_any_more_ends_the_span() -> None:
    rig = Rig()
    async with traced(rig, BatchLimits(4)) as (batcher, recorder):
        with recorder.tracer.start_as_current_span("request"):
            first = await held(rig, batcher, Thing(0))
            tasks = [asyncio.create_task(batcher.submit(Thing(n, poison=n == 1))) for n in (1, 2)]
            await until(lambda: batcher.waiting == 2)
        rig.lanes[0].steps.put("go")
        await inside(rig.lanes[0], 1, 2)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        rig.lanes[0].steps.put("go")
        await first
        await until(lambda: len(recorder.named("batch")) == 2)
    assert [figures(span)["executions"] for span in recorder.named("batch")] == [1, 1]
    assert [figures(span)["failed"] for span in recorder.named("batch")] == [0, 0]


@pytest.mark.parametrize("step", ["fatal", "exit"])
async def test_a_lost_model_ends_every_span(step: Step) -> None:
    rig = Rig()
    async with traced(rig, BatchLimits(2)) as (batcher, recorder):
        asked = asyncio.create_task(ask(recorder, batcher, [Thing(1, poison=True), Thing(2)]))
        await inside(rig.lanes[0], 1, 2)
        rig.lanes[0].steps.put("go")  # fails: both halves wait again
        await inside(rig.lanes[0], 1)
        rig.lanes[0].steps.put(step)
        assert all(isinstance(answer, Exception) for answer in await asked)
    (span,) = recorder.named("batch")
    assert forwards(span) == [(2, "failed"), (1, "fatal")]
    assert span.status.status_code is trace.StatusCode.ERROR


async def test_a_batch_whose_requests_are_not_recorded_has_no_span() -> None:
    rig = Rig(open=True)
    async with traced(rig, BatchLimits(8)) as (batcher, recorder):
        with TracerProvider(sampler=ALWAYS_OFF).get_tracer("off").start_as_current_span("request"):
            assert await batcher.submit(Thing(1)) == 8
            assert await batcher.submit(Thing(2)) == 15
    assert recorder.named("batch") == []


async def test_the_services_batch_links_to_the_requests_whose_samples_it_holds() -> None:
    recorder = Recorder()
    scorer = BrightnessScorer(settings := ServingSettings.model_validate({"max_samples": 32, "max_in_flight": 64}), 32)
    service = ScoringService(settings, scorer)
    assert scorer.batcher.spans is None  # traces are off
    scorer.batcher.spans = BatchSpans(recorder.tracer)
    await service.start()

    async def request(*values: int) -> None:
        with recorder.tracer.start_as_current_span("request"):
            await service.score(batch(*values))

    scorer.gate.clear()
    tasks = [asyncio.create_task(request(50))]
    await until_in_model(scorer)
    tasks += [asyncio.create_task(request(1, 2, POISON)), asyncio.create_task(request(4))]
    await until(lambda: scorer.batcher.waiting == 4)
    scorer.gate.set()
    await asyncio.gather(*tasks)
    await service.close()
    alone, together = sorted(recorder.named("batch"), key=lambda span: len(span.links))
    assert figures(alone) == {"size": 1, "cost": 1.0, "executions": 1, "failed": 0}
    assert figures(together) == {"size": 4, "cost": 4.0, "executions": 5, "failed": 1}
    assert links(alone) | links(together) == ids(recorder.named("request"))
    assert not links(alone) & links(together)
