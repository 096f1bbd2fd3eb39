"""Flow-Factory's remote reward models.

It appends /compute and /health to one URL, so the reward's name may stand in the path.
"""

from __future__ import annotations

from fastapi import APIRouter, Request
from pydantic import BaseModel

from varl.services.serving.compat.peer import (
    CompatSettings,
    SampleFailedError,
    check_lengths,
    check_ready,
    chosen_reward,
    image_file,
    peer_router,
    score_all,
)
from varl.services.serving.compat.schema import json_body, refusals
from varl.services.serving.http.bodies import read_json
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
    """``/compute`` and ``/health`` under /compat/flow_factory and under /compat/flow_factory/<reward>."""
    router = peer_router("flow_factory", "Flow-Factory")
    responses = refusals(model_fails=False)

    @router.post(
        "/compute", response_model=Rewards | Failure, responses=responses, openapi_extra=json_body(ComputeBody)
    )
    async def compute(request: Request, reward: str | None = None) -> Rewards | Failure:
        """Score images by the one reward; a failed sample fails the request."""
        return await _compute(source, settings, request, reward)

    @router.post(
        "/{reward}/compute", response_model=Rewards | Failure, responses=responses, openapi_extra=json_body(ComputeBody)
    )
    async def compute_by(request: Request, reward: str) -> Rewards | Failure:
        """Score images by the reward that the path names."""
        return await _compute(source, settings, request, reward)

    @router.get("/health", responses=refusals(body=False))
    async def health(reward: str | None = None) -> Health:
        """2xx once the reward can score."""
        return _health(source, reward)

    @router.get("/{reward}/health", responses=refusals(body=False))
    async def health_by(reward: str) -> Health:
        """2xx once the reward that the path names can score."""
        return _health(source, reward)

    return router


async def _compute(
    source: RewardSource, settings: CompatSettings, request: Request, named: str | None
) -> Rewards | Failure:
    reward = chosen_reward(source, named)
    body = await read_json(request, ComputeBody, settings.max_request_bytes)
    images = body.image or []
    check_lengths(prompt=body.prompt, image=images)
    pairs = enumerate(zip(body.prompt, images, strict=True))
    samples = [RawSample(str(i), prompt, image_file(image, f"image[{i}]")) for i, (prompt, image) in pairs]
    try:
        return Rewards(rewards=[score.value for score in await score_all(source, reward, samples)])
    except (
        SampleFailedError
    ) as failure:  # the client tries any error status again, three times over, but takes this for final
        return Failure(error=str(failure))


def _health(source: RewardSource, named: str | None) -> Health:
    check_ready(source, (chosen_reward(source, named),))
    return Health(status="ok")
