"""Requests that are larger than what a service takes at a time."""

from __future__ import annotations

import asyncio
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.gateway_rig import gateway, sample, toy
from varl.services.gateway.messages import sample_messages
from varl.services.gateway.parts import PartLimits, joined, part_limits, parts
from varl.services.serving.scoring import BatchResult, ErrorCode, ModelInfo, RawSample, SampleError, SampleScore
from varl.v1 import reward_pb2

MODEL = ModelInfo("e", "n", "1")


@given(st.lists(st.integers(0, 3000), min_size=1, max_size=30), st.integers(1, 8), st.integers(2000, 9000))
def test_parts_hold_every_sample_once_in_order_and_fit(sizes: list[int], samples: int, most: int) -> None:
    raw = [RawSample(str(index), "p", bytes(size)) for index, size in enumerate(sizes)]
    found = list(parts(sample_messages(raw), raw, PartLimits(samples, most)))
    assert [message.id for part in found for message in part.messages] == [each.id for each in raw]
    for part in found:
        assert 1 <= len(part.messages) <= samples
        assert [each.id for each in part.samples] == [message.id for message in part.messages]
        assert reward_pb2.ScoreRequest(samples=part.messages, formula="f" * 64).ByteSize() <= most
    for before, after in itertools.pairwise(found):  # no part could have taken the next one's first
        size = sum(message.ByteSize() + 8 for message in [*before.messages, after.messages[0]])
        assert len(before.messages) == samples or size + 1024 > most
    for each in (each for part in found for each in part.samples):
        assert isinstance(each.image, SampleError) == (sizes[int(each.id)] > most - 1024 - 8 - 9 - len(each.id))


def test_limits_are_the_services_own_within_those_of_the_wire() -> None:
    info = reward_pb2.GetInfoResponse(max_samples=8, max_request_bytes=1000)
    assert part_limits(info) == PartLimits(8, 1000)
    assert part_limits(reward_pb2.GetInfoResponse(max_samples=8)) == PartLimits(8, 32 * 2**20)
    info.max_request_bytes = 2**40
    assert part_limits(info).bytes == 32 * 2**20


def test_results_are_joined_unless_two_models_gave_them() -> None:
    first = BatchResult(("a",), (SampleScore(1.0),), model=MODEL)
    second = BatchResult(("b",), (SampleError(ErrorCode.BAD_IMAGE, ""),), model=MODEL)
    assert joined([first, second]) == BatchResult(("a", "b"), (*first.outcomes, *second.outcomes), model=MODEL)
    with pytest.raises(ValueError, match="n 1 and n 2"):
        joined([first, BatchResult(("b",), (), model=ModelInfo("e", "n", "2"))])


async def test_a_request_of_many_parts_is_answered_as_one() -> None:
    async with (
        toy("small", max_samples=3, max_in_flight=3, max_request_bytes=4096) as small,
        gateway({"small": small.port}) as rig,
    ):
        await rig.until("small", "ready")
        wanted = [sample(str(index), level=index) for index in range(20)]
        wanted[7] |= {"prompt": "x" * 4096}
        entry = (await rig.score(*wanted)).json()["rewards"]["small"]
        assert [result["id"] for result in entry["results"]] == [str(index) for index in range(20)]
        assert entry["results"][7]["error"]["code"] == "image_too_large"
        scored = [result for result in entry["results"] if "value" in result]
        assert [result["value"] for result in scored] == [int(result["id"]) / 255 for result in scored]
        assert len(scored) == 19


async def test_a_part_that_is_turned_away_is_offered_again() -> None:
    """Of two such requests each finds the service taken by the other's parts."""
    async with (
        toy("small", max_samples=2, max_in_flight=2) as small,
        gateway({"small": small.port}) as rig,
    ):
        await rig.until("small", "ready")
        small.scorer.gate.clear()
        first = asyncio.create_task(rig.score(*(sample(str(index)) for index in range(6))))
        while 'varl_samples_in_flight{reward="small"} 2.0' not in small.service.metrics.render().decode():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        refused = await rig.score(*(sample(str(index)) for index in range(6)))
        assert (refused.status_code, refused.json()["code"]) == (429, "overloaded")
        small.scorer.gate.set()
        assert len((await first).json()["rewards"]["small"]["results"]) == 6


async def test_what_is_wrong_with_any_part_is_wrong_with_the_request() -> None:
    async with toy("small", max_samples=2) as small, gateway({"small": small.port}) as rig:
        await rig.until("small", "ready")
        answer = await rig.score(*(sample(str(index)) for index in range(6)), formulas={"small": "nope"})
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
