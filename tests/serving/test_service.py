"""The service without its protocols over a scripted model.

What becomes of a request when a sample, a deadline or the model fails.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.support.service_rig import FATAL, POISON, BrightnessScorer, batch, until_in_model
from varl.services.serving.scoring import (
    BatchResult,
    ErrorCode,
    SampleError,
    SampleScore,
    ScoreBatch,
)
from varl.services.serving.service import ScoringService, State
from varl.services.serving.settings import ServingSettings
from varl.services.serving.status import RejectionCode, RequestRejectedError


@asynccontextmanager
async def serving(max_items: int = 32, **changes: float) -> AsyncIterator[tuple[ScoringService, BrightnessScorer]]:
    settings = ServingSettings.model_validate({"max_samples": 32, "max_in_flight": 64}).model_copy(update=changes)
    scorer = BrightnessScorer(settings, max_items)
    service = ScoringService(settings, scorer)
    await service.start()
    yield service, scorer
    scorer.gate.set()
    await service.close()


async def rejected(service: ScoringService, request: ScoreBatch) -> RequestRejectedError:
    with pytest.raises(RequestRejectedError) as rejection:
        await service.score(request)
    return rejection.value


async def test_one_poison_among_32_leaves_31_right_answers() -> None:
    async with serving() as (service, scorer):
        values = [POISON if index == 13 else index for index in range(32)]
        scorer.gate.clear()
        first = asyncio.create_task(service.score(batch(50)))
        await until_in_model(scorer)
        task = asyncio.create_task(service.score(batch(*values)))
        while scorer.batcher.waiting < 31:  # noqa: ASYNC110
            await asyncio.sleep(0)
        scorer.gate.set()
        outcomes = (await task).outcomes
        for value, outcome in zip(values, outcomes, strict=True):
            if value == POISON:
                assert isinstance(outcome, SampleError)
                assert outcome.code is ErrorCode.ENGINE_FAILED
                assert "poison" in outcome.detail
            else:
                assert isinstance(outcome, SampleScore)
                assert outcome.value == value
        assert isinstance(await first, BatchResult)
        assert sum(POISON in values for values in scorer.forwards) <= 6
        text = service.metrics.render().decode()
        assert 'varl_executions_total{result="failed",reward="brightness"}' in text
        assert 'varl_inferences_total{reward="brightness"} 32.0' in text
        assert 'varl_failures_total{reason="engine_failed",reward="brightness"} 1.0' in text
        assert 'varl_decode_seconds_count{reward="brightness"} 33.0' in text


async def test_not_a_number_is_an_error() -> None:
    async with serving() as (service, _):
        (bad, good) = (await service.score(batch(99, 7))).outcomes
        assert isinstance(bad, SampleError)
        assert bad.code is ErrorCode.NOT_FINITE
        assert isinstance(good, SampleScore)


async def test_a_deadline_that_passes_gives_the_room_back_and_spares_the_model() -> None:
    async with serving(max_items=1, request_seconds=0.05) as (service, scorer):
        scorer.gate.clear()
        answers = [
            asyncio.create_task(rejected(service, batch(1, 2))),
            asyncio.create_task(rejected(service, batch(3))),
        ]
        assert {answer.code for answer in await asyncio.gather(*answers)} == {RejectionCode.DEADLINE_EXCEEDED}
        assert scorer.batcher.waiting == 0
        scorer.gate.set()
        assert len(scorer.forwards) <= 1
    assert "varl_samples_in_flight" in service.metrics.render().decode()
    assert 'varl_samples_in_flight{reward="brightness"} 0.0' in service.metrics.render().decode()


async def test_a_deadline_in_the_past_is_refused_before_anything_is_decoded() -> None:
    async with serving() as (service, scorer):
        rejection = await rejected(service, batch(1, deadline=time.monotonic() - 1))
        assert rejection.code is RejectionCode.DEADLINE_EXCEEDED
        assert scorer.forwards == []
        assert 'varl_decode_seconds_count{reward="brightness"} 0.0' in service.metrics.render().decode()


async def test_an_over_full_request_is_refused_whole() -> None:
    async with serving(max_in_flight=3) as (service, scorer):
        scorer.gate.clear()
        held = asyncio.create_task(service.score(batch(1, 2)))
        await until_in_model(scorer)
        rejection = await rejected(service, batch(3, 4))
        assert rejection.code is RejectionCode.OVERLOADED
        assert rejection.retry_after is not None
        scorer.gate.set()
        assert len((await held).outcomes) == 2
        assert not {3, 4} & {value for values in scorer.forwards for value in values}


async def test_a_request_over_the_bytes_in_flight_is_refused() -> None:
    async with serving(max_in_flight_bytes=100) as (service, _):
        assert (await rejected(service, batch(1, 2, 3))).code is RejectionCode.REQUEST_TOO_LARGE  # it never will fit


async def test_a_lost_model_turns_readiness_off_and_rejects_as_not_ready() -> None:
    async with serving() as (service, _):
        rejection = await rejected(service, batch(1, FATAL))
        assert rejection.code is RejectionCode.NOT_READY
        assert service.fatal.is_set()
        assert service.state is State.FAILED
        service.state = State.READY
        assert service.state is State.FAILED
        assert (await rejected(service, batch(1))).code is RejectionCode.NOT_READY


async def test_who_goes_away_takes_the_samples_along() -> None:
    async with serving(max_items=1) as (service, scorer):
        scorer.gate.clear()
        task = asyncio.create_task(service.score(batch(1, 2, 3)))
        await until_in_model(scorer)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        scorer.gate.set()
        (outcome,) = (await service.score(batch(9))).outcomes
        assert isinstance(outcome, SampleScore)
        assert len(scorer.forwards) == 2
