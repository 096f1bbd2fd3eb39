"""Room, deadlines, cancelling, a lost model, closing: forwards are held by the test."""

from __future__ import annotations

import asyncio
import threading

import pytest

from tests.support.batcher_rig import PATIENCE, Lane, Rig, Thing, held, inside, started, until
from varl.services.serving.batching.batcher import Batcher
from varl.services.serving.batching.forward import Model
from varl.services.serving.batching.queue import BatchLimits, LateError, QueueFullError, UnavailableError


async def test_the_queue_is_bounded_in_items_and_bytes_and_cancelling_gives_room() -> None:
    rig = Rig()
    batcher = await started(rig, BatchLimits(1, queue_items=2, queue_bytes=100))
    first = await held(rig, batcher, Thing(0))
    waiting = [asyncio.create_task(batcher.submit(Thing(number), size=40)) for number in (1, 2)]
    await asyncio.sleep(0)
    with pytest.raises(QueueFullError, match="2 items wait"):
        await batcher.submit(Thing(3))
    waiting[0].cancel()
    await asyncio.wait(waiting[:1])
    assert (batcher.waiting, batcher.waiting_bytes) == (1, 40)
    with pytest.raises(QueueFullError, match="40 bytes wait"):
        await batcher.submit(Thing(4), size=61)
    rig.open = True
    rig.lanes[0].steps.put("go")
    assert [await first, await waiting[1]] == [1, 15]
    assert rig.forwards == [(0,), (2,)]
    await batcher.close()


async def test_an_item_whose_deadline_passed_is_refused_at_once() -> None:
    batcher = await started(Rig(open=True), BatchLimits())
    with pytest.raises(LateError):
        await batcher.submit(Thing(0), deadline=0.0)
    await batcher.close()


async def test_cancelling_inside_a_forward_leaves_the_siblings_their_answers() -> None:
    rig = Rig()
    batcher = await started(rig, BatchLimits(4))
    tasks = [asyncio.create_task(batcher.submit(Thing(number))) for number in range(3)]
    await inside(rig.lanes[0], 0, 1, 2)
    tasks[1].cancel()
    await asyncio.wait(tasks[1:2])
    rig.lanes[0].steps.put("go")
    assert [await tasks[0], await tasks[2]] == [1, 15]
    await batcher.close()


async def test_a_lost_model_fails_everything_as_unavailable_and_says_so() -> None:
    rig = Rig()
    batcher = await started(rig, BatchLimits(1))
    tasks = [
        await held(rig, batcher, Thing(0)),
        *(asyncio.create_task(batcher.submit(Thing(number))) for number in (1, 2)),
    ]
    await asyncio.sleep(0)
    rig.lanes[0].steps.put("fatal")
    await asyncio.wait_for(batcher.fatal.wait(), PATIENCE)
    assert [type(result) for result in await asyncio.gather(*tasks, return_exceptions=True)] == [UnavailableError] * 3
    with pytest.raises(UnavailableError, match="lost"):
        await batcher.submit(Thing(3))
    assert rig.forwards == [(0,)]
    await batcher.close()


async def test_closing_answers_what_waits_and_then_takes_nothing() -> None:
    rig = Rig()
    batcher = await started(rig, BatchLimits(1))
    tasks = [await held(rig, batcher, Thing(0)), asyncio.create_task(batcher.submit(Thing(1)))]
    await asyncio.sleep(0)
    closing = asyncio.create_task(batcher.close(PATIENCE))
    await asyncio.sleep(0)
    with pytest.raises(UnavailableError, match="shutting down"):
        await batcher.submit(Thing(2))
    rig.open = True
    rig.lanes[0].steps.put("go")
    await closing
    assert [await task for task in tasks] == [1, 8]


async def test_closing_does_not_wait_for_a_model_that_hangs() -> None:
    rig = Rig()
    batcher = await started(rig, BatchLimits(1))
    tasks = [await held(rig, batcher, Thing(0)), asyncio.create_task(batcher.submit(Thing(1)))]
    await asyncio.sleep(0)
    await batcher.close(0)
    assert [type(result) for result in await asyncio.gather(*tasks, return_exceptions=True)] == [UnavailableError] * 2
    rig.lanes[0].steps.put("go")  # comes back after all
    await asyncio.to_thread(rig.lanes[0].thread.join, PATIENCE)
    assert rig.forwards == [(0,)]


async def test_an_instance_that_cannot_be_built_fails_the_start_and_the_others_end() -> None:
    built: list[threading.Thread] = []

    def build() -> Model[Thing, int]:
        built.append(threading.current_thread())
        if len(built) == 2:
            raise OSError("no weights")
        return Lane(Rig(open=True))

    batcher: Batcher[Thing, int] = Batcher(build, BatchLimits(), lanes=3)
    with pytest.raises(OSError, match="no weights"):
        await batcher.start()
    await batcher.close(PATIENCE)
    for thread in built:
        await asyncio.to_thread(thread.join, PATIENCE)
        assert not thread.is_alive()


async def test_every_instance_takes_part() -> None:
    rig = Rig()
    batcher = await started(rig, BatchLimits(1), lanes=3)
    tasks = [asyncio.create_task(batcher.submit(Thing(number))) for number in range(3)]
    await until(lambda: all(lane.inside for lane in rig.lanes))
    rig.open = True
    for lane in rig.lanes:
        lane.steps.put("go")
    assert [await task for task in tasks] == [1, 8, 15]
    assert rig.violations == []
    await batcher.close()


async def test_an_observer_that_raises_costs_nobody_an_answer() -> None:
    def broken(_: object) -> None:
        raise RuntimeError("observer")

    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    batcher = await started(Rig(open=True), BatchLimits(1))
    batcher.observe = broken
    assert [await batcher.submit(Thing(number)) for number in range(3)] == [1, 8, 15]
    await batcher.close()
