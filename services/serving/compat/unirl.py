"""UniRL's remote reward backend: several rewards a request, failures apart from results."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from varl.services.serving.compat.choice import Scope, scope_of, serve
from varl.services.serving.compat.peer import CompatSettings, counted, peer_router
from varl.services.serving.compat.schema import json_body, refusals
from varl.services.serving.http.bodies import read_json_as
from varl.services.serving.http.problems import problem
from varl.services.serving.image_text import image_file
from varl.services.serving.reward_source import RewardAnswer, RewardSource
from varl.services.serving.scoring import ErrorCode, RawSample, SampleError, ScoreBatch
from varl.services.serving.status import MAX_FAULTS, STATUS, RejectionCode, RequestRejectedError, shown


class Turn(BaseModel):
    """One turn of a history; rewards look at the last one."""

    text: str
    image_b64: str | None = None


class ScoreItem(BaseModel):
    """One image with the rewards wanted for it."""

    history: list[Turn] = Field(min_length=1)
    required_rewards: list[str] = Field(min_length=1)
    metadata: dict[str, Any] | None = None


class ScoreBody(BaseModel):
    """Body of ``POST /compat/unirl/score``."""

    requests: list[ScoreItem]


class ScoreAnswer(BaseModel):
    """One entry a request: scores by reward and sub-metric, and failures by reward."""

    results: list[dict[str, dict[str, float]]]
    errors: list[dict[str, str]]


class HealthAnswer(BaseModel):
    """What the trainer checks its reward names against when it starts."""

    status: str
    rewards: dict[str, list[str]]


class RewardsAnswer(BaseModel):
    """Names of the rewards."""

    rewards: list[str]


_LOOKS = refusals(body=False, ready=False)


def routes(source: RewardSource, settings: CompatSettings) -> APIRouter:
    """``/score``, ``/health`` and ``/rewards`` under /compat/unirl; below a reward's name they know it alone."""
    router = peer_router("unirl", "UniRL")

    @serve(
        router, "POST", "/score", response_model=ScoreAnswer, responses=refusals(), openapi_extra=json_body(ScoreBody)
    )
    async def score(request: Request) -> ScoreAnswer | JSONResponse:
        """Score a list of requests; a reward that failed is left out of its result and named in its errors."""
        try:
            with counted(source):
                scope = scope_of(source, request)
                items, samples = await read_json_as(request, ScoreBody, _items, settings.max_request_bytes)
                _check_names(scope, items)
                return await _score(source, scope, items, samples)
        except _UnknownRewardError as error:  # this peer expects 400 here
            return problem(HTTPStatus.BAD_REQUEST, error.code, error.detail)

    @serve(router, "GET", "/health", responses=_LOOKS)
    async def health(request: Request) -> HealthAnswer:
        """Answers at once, whatever the models do."""
        offered, states = scope_of(source, request).rewards, source.states()
        return HealthAnswer(status="ok", rewards={name: [states[name]] for name in offered})

    @serve(router, "GET", "/rewards", responses=_LOOKS)
    async def rewards(request: Request) -> RewardsAnswer:
        """Names of the rewards on offer."""
        return RewardsAnswer(rewards=list(scope_of(source, request).rewards))

    return router


class _UnknownRewardError(RequestRejectedError):
    """A body names a reward that is not on offer."""


def _check_names(scope: Scope, items: Sequence[ScoreItem]) -> None:
    unknown = sorted({name for item in items for name in item.required_rewards} - set(scope.rewards))
    if unknown:
        names = ", ".join(map(shown, unknown[:MAX_FAULTS]))
        detail = f"unknown rewards: {names}; on offer: {', '.join(scope.rewards)}"
        raise _UnknownRewardError(RejectionCode.NO_SUCH_REWARD, detail)


def _items(body: ScoreBody) -> tuple[Sequence[ScoreItem], Sequence[RawSample]]:
    return body.requests, [_sample(index, item) for index, item in enumerate(body.requests)]


async def _score(
    source: RewardSource, scope: Scope, items: Sequence[ScoreItem], samples: Sequence[RawSample]
) -> ScoreAnswer:
    answer = ScoreAnswer(results=[{} for _ in items], errors=[{} for _ in items])
    wanted = {name: [i for i, item in enumerate(items) if name in item.required_rewards] for name in scope.rewards}
    asked = {name: rows for name, rows in wanted.items() if rows}
    found = await asyncio.gather(
        *(_ask(source, name, scope.formula, [samples[i] for i in rows]) for name, rows in asked.items())
    )
    _check_answered(found)
    for (name, rows), each in zip(asked.items(), found, strict=True):
        _enter(answer, name, rows, each)
    return answer


def _check_answered(found: Sequence[RewardAnswer]) -> None:
    """Raise a rejection where one may pass, or where nothing was scored.

    The client tries 429 and 5xx again, while an error in a 200 ends its step.
    """
    rejections = [each for each in found if isinstance(each, RequestRejectedError)]
    passing = [each for each in rejections if STATUS[each.code].retryable]
    if passing:  # all of the rewards are wanted: the one that is there last says when
        raise max(passing, key=lambda each: each.retry_after or 0.0)
    if rejections and len(rejections) == len(found):
        raise rejections[0]


async def _ask(source: RewardSource, name: str, formula: str, samples: Sequence[RawSample]) -> RewardAnswer:
    return (await source.score_rewards(ScoreBatch(tuple(samples), formula), (name,)))[name]


def _sample(index: int, item: ScoreItem) -> RawSample:
    last, field = item.history[-1], f"requests[{index}].history[{len(item.history) - 1}].image_b64"
    missing = SampleError(ErrorCode.INVALID_FIELD, f"{field}: missing; this service scores images only")
    image = missing if last.image_b64 is None else image_file(last.image_b64, field)
    return RawSample(str(index), last.text, image, metadata=item.metadata or {})


def _enter(answer: ScoreAnswer, name: str, rows: Sequence[int], found: RewardAnswer) -> None:
    if isinstance(found, RequestRejectedError):
        for row in rows:
            answer.errors[row][name] = f"{found.code}: {found.detail}"
        return
    for row, outcome in zip(rows, found.outcomes, strict=True):
        if isinstance(outcome, SampleError):
            answer.errors[row][name] = f"{outcome.code}: {outcome.detail}"
        else:  # one sub-metric alone: the trainer may average over all that it finds
            answer.results[row][name] = {name: outcome.value}
