"""deepgen_rl's reward services."""

from __future__ import annotations

from http import HTTPStatus

from fastapi import APIRouter, Request, Response

from varl.services.serving.compat.choice import serve
from varl.services.serving.compat.peer import CompatSettings, peer_router
from varl.services.serving.compat.pickled import Refusal, answered, pickled, prompted_scores, retry_after
from varl.services.serving.reward_source import RewardSource


def routes(source: RewardSource, settings: CompatSettings) -> APIRouter:
    """``/compat/deepgen_rl``: the peer posts to its URL, to which it appends a slash."""
    router = peer_router("deepgen_rl")

    @serve(router, "POST", "")
    async def score(request: Request) -> Response:
        """Images and prompts in, scores out; every failure is a 500, the only one that the peer knows."""
        return await answered(source, prompted_scores(source, settings, request), _refusal)

    return router


def _refusal(refusal: Refusal) -> Response:
    return pickled({"error": str(refusal)}, HTTPStatus.INTERNAL_SERVER_ERROR, retry_after(refusal))
