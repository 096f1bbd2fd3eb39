"""flow_grpo's three reward servers.

Its client tries again on status 500 alone, a thousand times, and unpickles any other answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel, ConfigDict, StrictStr

from varl.services.serving.compat.choice import chosen, serve
from varl.services.serving.compat.peer import CompatSettings, check_lengths, peer_router, score_all
from varl.services.serving.compat.pickled import (
    ImagesBody,
    Refusal,
    answered,
    prompted_scores,
    read_pickle,
    retry_after,
    retryable,
    samples_of,
    status_of,
)
from varl.services.serving.reward_source import RewardSource
from varl.services.serving.scoring import RawSample

_NO_CELL = -10.0  # the peer's own mark for "not an image of this tag"; never a failure
_TAGS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")


class Meta(BaseModel):
    """What GenEval knows of an image; other keys are the reward's metadata."""

    model_config = ConfigDict(extra="allow")

    prompt: StrictStr
    tag: StrictStr | None = None


class GenEvalBody(ImagesBody):
    """Images with GenEval's own description of what they should show."""

    meta_datas: list[Meta]


def routes(source: RewardSource, settings: CompatSettings) -> APIRouter:
    """``/geneval``, ``/deqa`` and ``/unified_reward`` under /compat/flow_grpo."""
    router = peer_router("flow_grpo")

    @serve(router, "POST", "/geneval")
    async def geneval(request: Request) -> Response:
        """Images and meta_datas in; scores, rewards and the groups by tag out."""
        return await answered(source, _geneval(source, settings, request), _refusal)

    @serve(router, "POST", "/deqa")
    async def deqa(request: Request) -> Response:
        """Images alone in, for a reward that wants no prompt; outputs out."""
        return await answered(source, _deqa(source, settings, request), _refusal)

    @serve(router, "POST", "/unified_reward")
    async def unified_reward(request: Request) -> Response:
        """Images and prompts in; outputs, which descendants of the trainer read as scores, out."""
        return await answered(source, _unified_reward(source, settings, request), _refusal)

    return router


async def _geneval(source: RewardSource, settings: CompatSettings, request: Request) -> Mapping[str, Any]:
    choice = chosen(source, request)
    body = await read_pickle(request, GenEvalBody, settings.max_request_bytes)
    check_lengths(images=body.images, meta_datas=body.meta_datas)
    described = enumerate(zip(body.images, body.meta_datas, strict=True))
    samples = [RawSample(str(i), meta.prompt, image, metadata=meta.model_dump()) for i, (image, meta) in described]
    values = [score.value for score in await score_all(source, choice, samples)]
    groups = _groups(values, [meta.tag for meta in body.meta_datas])
    return {
        "scores": values,
        "rewards": values,
        "strict_rewards": values,
        "group_rewards": groups,
        "group_strict_rewards": groups,
    }


async def _deqa(source: RewardSource, settings: CompatSettings, request: Request) -> Mapping[str, Any]:
    choice = chosen(source, request)
    body = await read_pickle(request, ImagesBody, settings.max_request_bytes)
    samples = samples_of(body.images, [""] * len(body.images))  # a reward that needs a prompt refuses them
    return _both([score.value for score in await score_all(source, choice, samples)])


async def _unified_reward(source: RewardSource, settings: CompatSettings, request: Request) -> Mapping[str, Any]:
    return _both((await prompted_scores(source, settings, request))["scores"])


def _both(values: Sequence[float]) -> dict[str, Any]:
    """Under the name that the trainer reads and the one that its descendants do."""
    return {"outputs": values, "scores": values}


def _groups(values: Sequence[float], tags: Sequence[str | None]) -> dict[str, list[float]]:
    """One list a tag, each as long as the batch: the trainer joins the lists of several batches."""
    names = dict.fromkeys((*_TAGS, *(tag for tag in tags if tag is not None)))
    return {
        name: [value if tag == name else _NO_CELL for value, tag in zip(values, tags, strict=True)] for name in names
    }


def _refusal(refusal: Refusal) -> Response:
    """Plain text. 500 exactly where another try may help.

    The text starts with a letter that ends the client's unpickling at once.
    """
    status = status_of(refusal)
    if retryable(refusal):
        status = HTTPStatus.INTERNAL_SERVER_ERROR
    elif status == HTTPStatus.INTERNAL_SERVER_ERROR:
        status = HTTPStatus.UNPROCESSABLE_ENTITY
    return PlainTextResponse(f"error: {refusal}", status, retry_after(refusal))
