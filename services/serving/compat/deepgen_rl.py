"""deepgen_rl's reward services, and the scores that verl-omni asks for in the same form."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import APIRouter, Request, Response

from varl.services.serving.compat.peer import CompatSettings, check_lengths, chosen_reward, peer_router, score_all
from varl.services.serving.compat.pickled import PromptedBody, Refusal, answered, pickled, read_pickle, retry_after
from varl.services.serving.reward_source import RewardSource
from varl.services.serving.scoring import RawSample


def routes(source: RewardSource, settings: CompatSettings) -> APIRouter:
    """``/compat/deepgen_rl``: the peer posts to the root of its URL."""
    router = peer_router("deepgen_rl")

    @router.post("")
    @router.post("/")
    async def score(request: Request, reward: str | None = None) -> Response:
        """Images and prompts in, scores out; every failure is a 500, the only one that the peer knows."""
        return await answered(scores(source, settings, request, reward), _refusal)

    return router


async def scores(
    source: RewardSource, settings: CompatSettings, request: Request, reward: str | None
) -> Mapping[str, Any]:
    """{"scores": [float]} for a pickled {"images", "prompts"}; raises RequestRejectedError, SampleFailedError."""
    name = chosen_reward(source, reward)
    body = await read_pickle(request, PromptedBody, settings.max_request_bytes)
    check_lengths(images=body.images, prompts=body.prompts)
    samples = [
        RawSample(str(i), prompt, image)
        for i, (image, prompt) in enumerate(zip(body.images, body.prompts, strict=True))
    ]
    return {"scores": [score.value for score in await score_all(source, name, samples)]}


def _refusal(refusal: Refusal) -> Response:
    return pickled({"error": str(refusal)}, HTTPStatus.INTERNAL_SERVER_ERROR, retry_after(refusal))
