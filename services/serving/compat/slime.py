"""slime's and miles' remote reward model: one sample a request, a bare number back."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel

from varl.services.serving.compat.openrlhf import target_words
from varl.services.serving.compat.peer import CompatSettings, chosen_reward, image_file, peer_router, score_all
from varl.services.serving.compat.schema import json_body, refusals
from varl.services.serving.http.bodies import read_json
from varl.services.serving.reward_source import RewardSource
from varl.services.serving.scoring import RawSample


class SampleBody(BaseModel):
    """Body of ``/compat/slime/score``.

    The response is an image as Base64 or data: URL, the label a string or list of target words.
    """

    prompt: str
    response: str
    label: Any = None


def routes(source: RewardSource, settings: CompatSettings) -> APIRouter:
    """``/score`` under /compat/slime."""
    router = peer_router("slime", "slime")

    @router.post("/score", responses=refusals(), openapi_extra=json_body(SampleBody))
    async def score(request: Request, reward: str | None = None) -> float:
        """Score one image."""
        name = chosen_reward(source, reward)
        body = await read_json(request, SampleBody, settings.max_request_bytes)
        sample = RawSample("0", body.prompt, image_file(body.response, "response"), target_words(body.label))
        return (await score_all(source, name, [sample]))[0].value

    return router
