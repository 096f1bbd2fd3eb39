"""What one batch costs and who pays for a bad item: forwards are counted, and held where order matters."""

from __future__ import annotations

import asyncio
import math
import weakref
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.batcher_rig import Rig, Thing, held, inside, right, started, submit_all, until
from varl.services.serving.batching.queue import BatchLimits, ItemFailedError, WrongLengthError


@pytest.mark.parametrize("guilty", range(32))
async def test_one_poison_among_32_costs_at_most_11_forwards(guilty: int) -> None:
    rig = Rig()
    batcher = await started(rig, BatchLimits(32))
    first = await held(rig, batcher, Thing(99))  # so that the 32 are one batch, however slowly they come
    things = [Thing(number, poison=number == guilty) for number in range(32)]
    submitted = asyncio.create_task(submit_all(batcher, things))
    await until(lambda: batcher.waiting == 32)
    rig.open = True
    rig.lanes[0].steps.put("go")
    results = await submitted
    assert await first == right(Thing(99))
    assert isinstance(results.pop(guilty), ItemFailedError)
    assert results == [right(thing) for thing in things if not thing.poison]
    assert len(rig.forwards) - 1 <= 11
    await batcher.close()


@settings(max_examples=25)
@given(poisons=st.lists(st.booleans(), min_size=1, max_size=33))
def test_many_poisons_cost_at_most_two_forwards_an_item_and_harm_nobody_else(poisons: list[bool]) -> None:
    async def run() -> None:
        rig = Rig(open=True)
        batcher = await started(rig, BatchLimits(64))
        things = [Thing(number, poison) for number, poison in enumerate(poisons)]
        results = await submit_all(batcher, things)
        for thing, result in zip(things, results, strict=True):
            assert isinstance(result, ItemFailedError) if thing.poison else result == right(thing)
        assert len(rig.forwards) <= 2 * len(things) - 1
        guilty = sum(poisons)
        assert len(rig.forwards) <= 1 + 2 * guilty * math.ceil(math.log2(len(things) or 1))
        await batcher.close()

    asyncio.run(run())


async def test_fresh_items_and_parts_of_a_failed_batch_take_turns() -> None:
    rig = Rig()
    batcher = await started(rig, BatchLimits(4))
    poisoned = asyncio.create_task(submit_all(batcher, [Thing(number, poison=number == 0) for number in range(4)]))
    await inside(rig.lanes[0], 0, 1, 2, 3)
    fresh = asyncio.create_task(submit_all(batcher, [Thing(number) for number in range(10, 18)]))
    await until(lambda: batcher.waiting == 8)
    for numbers in [(0, 1, 2, 3), (0, 1), (10, 11, 12, 13), (0,), (14, 15, 16, 17), (1,), (2, 3)]:
        await inside(rig.lanes[0], *numbers)
        rig.lanes[0].steps.put("go")
    results = await poisoned
    assert isinstance(results[0], ItemFailedError)
    assert results[1:] == [8, 15, 22]
    assert await fresh == [7 * number + 1 for number in range(10, 18)]
    await batcher.close()


async def test_items_of_one_turn_of_the_loop_share_a_batch_and_cost_bounds_it() -> None:
    rig = Rig(open=True)
    batcher = await started(rig, BatchLimits(4, max_cost=10))
    costs = [1.0] * 6 + [8.0, 12.0, 3.0, 7.0, 1.0]
    await submit_all(batcher, [Thing(number, cost=cost) for number, cost in enumerate(costs)])
    assert rig.forwards == [(0, 1, 2, 3), (4, 5, 6), (7,), (8, 9), (10,)]
    await batcher.close()


async def test_a_batch_takes_no_more_than_its_share_of_what_waits() -> None:
    rig = Rig(open=True)
    batcher = await started(rig, BatchLimits(4, share=0.5))
    await submit_all(batcher, [Thing(number) for number in range(11)])
    assert [len(forward) for forward in rig.forwards] == [4, 4, 2, 1]
    await batcher.close()


async def test_what_fits_into_memory_is_remembered() -> None:
    rig = Rig(open=True, capacity=20)
    batcher = await started(rig, BatchLimits(32))
    things = [Thing(number) for number in range(32)]
    assert await submit_all(batcher, things) == list(map(right, things))
    assert [len(forward) for forward in rig.forwards] == [32, 16, 16]
    assert batcher.ceiling == 16
    rig.forwards.clear()
    again = [Thing(number) for number in range(32, 64)]
    assert await submit_all(batcher, again) == list(map(right, again))
    assert [len(forward) for forward in rig.forwards] == [16, 16]  # nothing is tried that failed before
    await batcher.close()


async def test_an_idle_batcher_keeps_nothing_of_its_last_batch() -> None:
    batcher = await started(Rig(open=True), BatchLimits(4))
    thing = Thing(5)
    held = weakref.ref(thing)
    assert await batcher.submit(thing) == right(thing)
    del thing
    await until(lambda: held() is None)
    await batcher.close()


async def test_one_item_too_big_for_memory_does_not_make_later_batches_small() -> None:
    class Lying(Thing):
        """Costs more than it says."""

    class Cramped(Rig):
        def answer(self, things: Sequence[Thing], step: object) -> Sequence[int]:
            if any(isinstance(thing, Lying) for thing in things):
                raise MemoryError
            return super().answer(things, "go")

    rig = Cramped(open=True)
    batcher = await started(rig, BatchLimits(8, max_cost=8))
    results = await submit_all(batcher, [Lying(0), *map(Thing, range(1, 8))])
    assert isinstance(results[0], ItemFailedError)
    assert results[1:] == [7 * number + 1 for number in range(1, 8)]
    assert batcher.ceiling == 8
    await batcher.close()


async def test_a_wrong_number_of_answers_fails_its_batch_and_the_next_is_served() -> None:
    rig = Rig()
    batcher = await started(rig, BatchLimits(4))
    task = asyncio.create_task(submit_all(batcher, [Thing(0), Thing(1)]))
    rig.lanes[0].steps.put("short")
    assert [type(result) for result in await task] == [WrongLengthError] * 2
    rig.open = True
    assert await batcher.submit(Thing(2)) == 15
    await batcher.close()
