"""Pickled bodies and answers.

Answers are pickles because the clients of these peers read nothing else: plain dicts, lists, strings and floats, which
hold no code. This is the one place that writes a pickle; what comes in goes through ``unpickle``, never through the
pickle module.
"""

from __future__ import annotations

import asyncio
import math
import pickle
from collections.abc import Awaitable, Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, TypeVar

from fastapi import Request, Response
from pydantic import BaseModel, ConfigDict, StrictBytes, StrictStr, ValidationError

from varl.services.serving.compat.choice import chosen
from varl.services.serving.compat.peer import CompatSettings, SampleFailedError, check_lengths, counted, score_all
from varl.services.serving.compat.unpickle import load
from varl.services.serving.compat.unpickle_machine import RestrictedPickleError
from varl.services.serving.http.bodies import field_faults, read_bytes
from varl.services.serving.http.counts import MAX_ITEMS, check_counts
from varl.services.serving.reward_source import RewardSource
from varl.services.serving.scoring import RawSample
from varl.services.serving.status import STATUS, RejectionCode, RequestRejectedError, invalid

Refusal = RequestRejectedError | SampleFailedError
T = TypeVar("T", bound=BaseModel)
_SMALL = 4096  # bytes of a pickle that takes no time


class ImagesBody(BaseModel):
    """What all of these peers send: whole image files."""

    model_config = ConfigDict(extra="ignore")

    images: list[StrictBytes]


class PromptedBody(ImagesBody):
    """Images, each with its prompt."""

    prompts: list[StrictStr]


async def read_pickle(request: Request, shape: type[T], max_bytes: int) -> T:
    """The body as plain data of one shape.

    Raises:
        RequestRejectedError: MALFORMED for a pickle that is damaged or not allowed, INVALID_REQUEST for another shape.

    """
    data = await read_bytes(request, max_bytes)
    try:
        found = await asyncio.to_thread(load, data) if len(data) > _SMALL else load(data)  # by steps of Python's own
        check_counts(found, MAX_ITEMS)
        return shape.model_validate(found)
    except RestrictedPickleError as error:
        raise RequestRejectedError(RejectionCode.MALFORMED, f"pickle: {error}") from error
    except ValidationError as error:
        raise invalid(*field_faults(error)) from error


async def prompted_scores(source: RewardSource, settings: CompatSettings, request: Request) -> Mapping[str, Any]:
    """{"scores": [float]} for a pickled {"images", "prompts"}; raises RequestRejectedError, SampleFailedError."""
    choice = chosen(source, request)
    body = await read_pickle(request, PromptedBody, settings.max_request_bytes)
    check_lengths(images=body.images, prompts=body.prompts)
    scores = await score_all(source, choice, samples_of(body.images, body.prompts))
    return {"scores": [score.value for score in scores]}


def samples_of(images: Sequence[bytes], prompts: Sequence[str]) -> list[RawSample]:
    """Samples that are named by their places."""
    return [RawSample(str(i), prompt, image) for i, (image, prompt) in enumerate(zip(images, prompts, strict=True))]


async def answered(
    source: RewardSource, work: Awaitable[Mapping[str, Any]], refuse: Callable[[Refusal], Response]
) -> Response:
    """The pickled answer, or the peer's own form of a refusal; either is counted."""
    try:
        with counted(source):
            return pickled(await work, HTTPStatus.OK)
    except (RequestRejectedError, SampleFailedError) as refusal:
        return refuse(refusal)


def pickled(answer: Mapping[str, Any], status: int, headers: Mapping[str, str] | None = None) -> Response:
    """A pickle of plain data; protocol 4, which every supported Python reads."""
    return Response(pickle.dumps(dict(answer), protocol=4), status, headers, "application/octet-stream")


def status_of(refusal: Refusal) -> int:
    """The status of the table, or of the failed sample."""
    return refusal.status if isinstance(refusal, SampleFailedError) else STATUS[refusal.code].http


def retryable(refusal: Refusal) -> bool:
    """Whether the same request may succeed later."""
    return isinstance(refusal, RequestRejectedError) and STATUS[refusal.code].retryable


def retry_after(refusal: Refusal) -> dict[str, str]:
    """The Retry-After header where there is a time to tell."""
    seconds = refusal.retry_after if isinstance(refusal, RequestRejectedError) else None
    return {} if seconds is None else {"Retry-After": str(math.ceil(seconds))}
