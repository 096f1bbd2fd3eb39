"""Flow-Factory's remote reward models: /compute and /health, which it appends to its URL."""

from __future__ import annotations

from fastapi import APIRouter, Request
from pydantic import BaseModel

from varl.services.serving.compat.choice import chosen, serve
from varl.services.serving.compat.peer import (
    CompatSettings,
    SampleFailedError,
    check_lengths,
    check_ready,
    counted,
    peer_router,
    score_all,
)
from varl.services.serving.compat.schema import json_body, refusals
from varl.services.serving.http.bodies import read_json_as
from varl.services.serving.image_text import image_file
from varl.services.serving.reward_source import RewardSource
from varl.services.serving.scoring import RawSample


class ComputeBody(BaseModel):
    """Body of ``/compute``: prompts and as many images as Base64; other fields are not looked at."""

    prompt: list[str]
    image: list[str] | None = None


class Rewards(BaseModel):
    """One number an image."""

    rewards: list[float]


class Failure(BaseModel):
    """A failure that another try would not mend."""

    error: str


class Health(BaseModel):
    """Sent only while the reward can score."""

    status: str


def routes(source: RewardSource, settings: CompatSettings) -> APIRouter:
    """``/compute`` and ``/health`` under /compat/flow_factory."""
    router = peer_router("flow_factory", "Flow-Factory")
    responses, body = refusals(model_fails=False), json_body(ComputeBody)

    @serve(router, "POST", "/compute", response_model=Rewards | Failure, responses=responses, openapi_extra=body)
    async def compute(request: Request) -> Rewards | Failure:
        """Score images by one reward; a failed sample fails the request."""
        return await _compute(source, settings, request)

    @serve(router, "GET", "/health", responses=refusals(body=False))
    async def health(request: Request) -> Health:
        """2xx once the reward can score."""
        check_ready(source, (chosen(source, request).reward,))
        return Health(status="ok")

    return router


def _samples(body: ComputeBody) -> list[RawSample]:
    images = body.image or []
    check_lengths(prompt=body.prompt, image=images)
    pairs = enumerate(zip(body.prompt, images, strict=True))
    return [RawSample(str(i), prompt, image_file(image, f"image[{i}]")) for i, (prompt, image) in pairs]


async def _compute(source: RewardSource, settings: CompatSettings, request: Request) -> Rewards | Failure:
    try:
        with counted(source):
            choice = chosen(source, request)
            samples = await read_json_as(request, ComputeBody, _samples, settings.max_request_bytes)
            return Rewards(rewards=[score.value for score in await score_all(source, choice, samples)])
    except (
        SampleFailedError
    ) as failure:  # the client tries any error status again, three times over, but takes this for final
        return Failure(error=str(failure))
