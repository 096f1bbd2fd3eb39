"""OpenRLHF's remote reward model; that a query is an image is our extension, as the trainer itself sends text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel

from varl.services.serving.compat.peer import (
    CompatSettings,
    check_lengths,
    chosen_reward,
    image_file,
    peer_router,
    score_all,
)
from varl.services.serving.compat.schema import json_body, refusals
from varl.services.serving.http.bodies import read_json
from varl.services.serving.reward_source import RewardSource
from varl.services.serving.scoring import RawSample, SampleScore


class RewardBody(BaseModel):
    """Body of ``/get_reward``: a query is an image as Base64 or data: URL, a label a string or list of target words."""

    query: list[str]
    prompts: list[str]
    labels: list[Any] | None = None


class RewardAnswer(BaseModel):
    """The values twice, under both names that the trainer reads, and the terms that every sample has."""

    rewards: list[float]
    scores: list[float] = []
    extra_logs: dict[str, list[float]] = {}


def routes(source: RewardSource, settings: CompatSettings) -> APIRouter:
    """``/get_reward`` under /compat/openrlhf."""
    router = peer_router("openrlhf", "OpenRLHF")

    @router.post(
        "/get_reward",
        response_model=RewardAnswer,
        response_model_exclude_unset=True,
        responses=refusals(),
        openapi_extra=json_body(RewardBody),
    )
    async def get_reward(request: Request, reward: str | None = None) -> RewardAnswer:
        """Score a shard of a batch, which may be empty; a failed sample fails the request."""
        name = chosen_reward(source, reward)
        body = await read_json(request, RewardBody, settings.max_request_bytes)
        scores = await score_all(source, name, _samples(body))
        return _answer(scores) if scores else RewardAnswer(rewards=[])

    return router


def _samples(body: RewardBody) -> list[RawSample]:
    labels = body.labels or [None] * len(body.query)
    check_lengths(query=body.query, prompts=body.prompts, labels=labels)
    rows = enumerate(zip(body.query, body.prompts, labels, strict=True))
    return [
        RawSample(str(i), prompt, image_file(query, f"query[{i}]"), target_words(label))
        for i, (query, prompt, label) in rows
    ]


def target_words(label: object) -> tuple[str, ...]:
    """The words that a label asks for: a string, or a list of strings; nothing in anything else."""
    if isinstance(label, str):
        return (label,) if label.strip() else ()
    if isinstance(label, list) and all(isinstance(word, str) for word in label):
        return tuple(label)
    return ()


def _answer(scores: Sequence[SampleScore]) -> RewardAnswer:
    values = [score.value for score in scores]
    shared = [term for term in scores[0].components if all(term in score.components for score in scores)]
    return RewardAnswer(
        rewards=values,
        scores=values,
        extra_logs={term: [score.components[term] for score in scores] for term in shared},
    )
