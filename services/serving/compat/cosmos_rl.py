"""cosmos-rl's reward service: enqueue an array of images, pull the scores of each reward later."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from varl.services.serving.compat.choice import Scope, check_offered, scope_of, serve
from varl.services.serving.compat.cosmos_jobs import Job, Jobs, Results
from varl.services.serving.compat.npy import png_files, read_images
from varl.services.serving.compat.peer import (
    CompatSettings,
    SampleFailedError,
    check_lengths,
    check_ready,
    counted,
    patiently,
    peer_router,
    scores_of,
)
from varl.services.serving.compat.schema import body_of, inlined, refusals
from varl.services.serving.http.bodies import aside, parse_json, read_bytes, read_form
from varl.services.serving.http.openapi import problem_responses
from varl.services.serving.reward_source import RewardAnswer, RewardSource
from varl.services.serving.scoring import RawSample, SampleScore, ScoreBatch
from varl.services.serving.service import check_number
from varl.services.serving.status import FieldFault, RequestRejectedError, invalid, shown

MAX_JOBS = 1024
BODIES = 8  # bodies of the largest size that may wait at a time
KEEP_SECONDS = 3600.0
JOB_SECONDS = 600.0  # for so long a refusal that may pass is waited out, as the trainer was told that its job is taken


class EnqueueHead(BaseModel):
    """The line of JSON before the array."""

    media_type: Literal["image"]
    prompts: list[str] = Field(min_length=1)
    reward_fn: dict[str, float] = Field(
        min_length=1, description="Rewards wanted; the weights are the trainer's own affair."
    )


class Enqueued(BaseModel):
    """Name of the job."""

    uuid: str


class PullForm(BaseModel):
    """Which result is wanted."""

    uuid: str
    type: str | None = None


class Pulled(BaseModel):
    """Scores by name in the order of the images, or null and why."""

    scores: dict[str, list[float]] | None
    error: str | None = None
    input_info: dict[str, Any]
    duration: str
    decoded_duration: str
    type: str


class PingForm(BaseModel):
    """What the trainer sends along; nobody looks at it."""

    info_data: str = ""


class Message(BaseModel):
    """A plain message."""

    message: str


_BYTES = {
    "type": "string",
    "format": "binary",
    "description": "A line of JSON (media_type, prompts, reward_fn), then an .npy file.",
}
# 400 and 404 are the peer's own message, or problem details: of a form that cannot be read, of a path that names
# another reward.
_PULL: dict[int | str, dict[str, Any]] = refusals() | {
    HTTPStatus.BAD_REQUEST.value: refusals()[HTTPStatus.BAD_REQUEST.value] | {"model": Message},
    HTTPStatus.NOT_FOUND.value: refusals()[HTTPStatus.NOT_FOUND.value] | {"model": Message},
}
_UNREAD = (
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.UNAUTHORIZED,
    HTTPStatus.NOT_FOUND,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    HTTPStatus.UNPROCESSABLE_ENTITY,
)
_FORM = "application/x-www-form-urlencoded"


def routes(source: RewardSource, settings: CompatSettings) -> APIRouter:
    """``/enqueue``, ``/pull`` and ``/ping`` under /compat/cosmos_rl/api/reward; below a reward's name it alone."""
    router = peer_router("cosmos_rl", "cosmos-rl")
    jobs = Jobs(MAX_JOBS, BODIES * settings.max_request_bytes, KEEP_SECONDS)

    @serve(
        router,
        "POST",
        "/api/reward/enqueue",
        responses=refusals(),
        openapi_extra=body_of("application/octet-stream", _BYTES),
    )
    async def enqueue(request: Request) -> Enqueued:
        """Take a batch in; everything that can be told from the request alone is refused here."""
        with counted(source):
            scope = scope_of(source, request)
            body = await read_bytes(request, settings.max_request_bytes)
            head, images = await aside(len(body), lambda: _read(source, scope, body, settings.max_samples))
            jobs.reserve(len(body))
        work = _run(source, head, scope.formula, images)
        return Enqueued(uuid=jobs.start(tuple(head.reward_fn), len(body), work))

    @serve(
        router,
        "POST",
        "/api/reward/pull",
        response_model=Pulled,
        responses=_PULL,
        openapi_extra=body_of(_FORM, inlined(PullForm)),
    )
    async def pull(request: Request) -> Response:
        """200 once the job is done; 400 while it runs, 404 for a job that is unknown or dropped."""
        scope_of(source, request)
        form = await read_form(request, settings.max_request_bytes)
        name = form.get("uuid", "")
        job = jobs.get(name)
        if job is None:
            return _message(HTTPStatus.NOT_FOUND, f"no job {shown(name)}: unknown, or its result was dropped")
        reward = _pulled_reward(job, form.get("type"))
        if not job.task.done():
            return _message(HTTPStatus.BAD_REQUEST, "not scored yet, pull again")
        return Response(job.task.result()[reward], media_type="application/json")

    @serve(
        router,
        "POST",
        "/api/reward/ping",
        responses=problem_responses(*_UNREAD),
        openapi_extra=body_of(_FORM, inlined(PingForm), required=False),
    )
    async def ping(request: Request) -> Message:
        """The service can be reached."""
        scope_of(source, request)
        await read_form(request, settings.max_request_bytes)
        return Message(message="reached")

    return router


def _read(
    source: RewardSource, scope: Scope, body: bytes, max_samples: int
) -> tuple[EnqueueHead, npt.NDArray[np.uint8]]:
    line, _, array = body.partition(b"\n")
    head = parse_json(EnqueueHead, line, max_samples)
    check_number(len(head.prompts), max_samples)
    check_offered(scope.rewards, tuple(head.reward_fn))
    check_ready(source, tuple(head.reward_fn))
    images = read_images(array)
    check_lengths(array=images, prompts=head.prompts)
    return head, images


def _pulled_reward(job: Job, named: str | None) -> str:
    if named is None and len(job.rewards) == 1:
        return job.rewards[0]
    if named not in job.rewards:
        raise invalid(FieldFault("type", f"none of the job's rewards: {', '.join(job.rewards)}"))
    return named


def _message(status: HTTPStatus, text: str) -> JSONResponse:
    return JSONResponse({"message": text}, status_code=status)


async def _run(source: RewardSource, head: EnqueueHead, formula: str, images: npt.NDArray[np.uint8]) -> Results:
    began = time.monotonic()
    files = await asyncio.to_thread(png_files, images)
    pairs = enumerate(zip(head.prompts, files, strict=True))
    batch = ScoreBatch(tuple(RawSample(str(i), prompt, file) for i, (prompt, file) in pairs), formula)
    info = {
        "shape": list(images.shape),
        "dtype": "torch.uint8",
        "min": f"{images.min():.3f}",
        "max": f"{images.max():.3f}",
    }
    decoded = time.monotonic() - began
    found = await asyncio.gather(*(patiently(source, batch, name, JOB_SECONDS) for name in head.reward_fn))
    times = {"input_info": info, "duration": f"{time.monotonic() - began:.2f}", "decoded_duration": f"{decoded:.2f}"}
    return {name: _encoded(name, each, times) for name, each in zip(head.reward_fn, found, strict=True)}


def _encoded(name: str, answer: RewardAnswer, times: Mapping[str, Any]) -> bytes:
    try:
        if isinstance(answer, RequestRejectedError):
            raise answer
        return json.dumps(
            {"scores": _named(name, scores_of(answer.outcomes)), **times, "type": name}, allow_nan=False
        ).encode()
    except (RequestRejectedError, SampleFailedError) as failure:
        return json.dumps({"scores": None, "error": str(failure), **times, "type": name}).encode()


def _named(name: str, scores: Sequence[SampleScore]) -> dict[str, list[float]]:
    """Under the reward's name and under the <name>_reward of the trainer's own recipes."""
    values = [score.value for score in scores]
    return {name: values, f"{name}_reward": values}
