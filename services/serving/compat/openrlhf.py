"""OpenRLHF's remote reward model.

The trainer sends text: the prompt and what the model wrote behind it, in which an image is Base64 or a data: URL.
Its client gives up after five tries within five seconds, so an overload is waited out here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel

from varl.services.serving.compat.choice import chosen, serve
from varl.services.serving.compat.peer import CompatSettings, check_lengths, counted, peer_router, score_all
from varl.services.serving.compat.schema import json_body, refusals
from varl.services.serving.http.bodies import read_json_as
from varl.services.serving.image_text import last_image
from varl.services.serving.reward_source import RewardSource
from varl.services.serving.scoring import RawSample, SampleScore
from varl.services.serving.status import FieldFault, invalid


class RewardBody(BaseModel):
    """Body of ``/get_reward``.

    A query is prompt and completion as the trainer decodes them, or an image alone; the last image in it is scored. A
    label is a target word or a list of them, as text or number; null and "" stand for none.
    """

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

    @serve(
        router,
        "POST",
        "/get_reward",
        response_model=RewardAnswer,
        response_model_exclude_unset=True,
        responses=refusals(),
        openapi_extra=json_body(RewardBody),
    )
    async def get_reward(request: Request) -> RewardAnswer:
        """Score a shard of a batch, which may be empty; a failed sample fails the request."""
        with counted(source):
            choice = chosen(source, request)
            samples = await read_json_as(request, RewardBody, _samples, settings.max_request_bytes)
            scores = await score_all(source, choice, samples, settings.request_seconds)
        return _answer(scores) if scores else RewardAnswer(rewards=[])

    return router


def _samples(body: RewardBody) -> list[RawSample]:
    labels = body.labels or [None] * len(body.query)
    check_lengths(query=body.query, prompts=body.prompts, labels=labels)
    rows = enumerate(zip(body.query, body.prompts, labels, strict=True))
    return [
        RawSample(str(i), prompt, last_image(query, f"query[{i}]", prompt), target_words(label, f"labels[{i}]"))
        for i, (query, prompt, label) in rows
    ]


def target_words(label: object, field: str) -> tuple[str, ...]:
    """The words that a label asks for: a text, a number, or a list of them; none for null and a blank text.

    Raises:
        RequestRejectedError: INVALID_REQUEST, naming ``field``, for anything else.

    """
    if label is None or (isinstance(label, str) and not label.strip()):
        return ()
    if isinstance(label, list):
        return tuple(_word(word, f"{field}[{index}]") for index, word in enumerate(label))
    return (_word(label, field),)


def _word(value: object, field: str) -> str:
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        return str(value)
    raise invalid(FieldFault(field, f"{_kind(value)} in place of a text, a number or a list of them"))


def _kind(value: object) -> str:
    """What JSON calls a value of this kind."""
    names = {type(None): "null", bool: "a boolean", dict: "an object", list: "a list"}
    return names.get(type(value), type(value).__name__)


def _answer(scores: Sequence[SampleScore]) -> RewardAnswer:
    values = [score.value for score in scores]
    shared = [term for term in scores[0].components if all(term in score.components for score in scores)]
    return RewardAnswer(
        rewards=values,
        scores=values,
        extra_logs={term: [score.components[term] for score in scores] for term in shared},
    )
