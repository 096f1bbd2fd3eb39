"""verl-omni's HTTP scorer: one image a request, many requests at a time."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from varl.services.serving.compat.choice import serve
from varl.services.serving.compat.peer import CompatSettings, peer_router
from varl.services.serving.compat.pickled import Refusal, answered, pickled, prompted_scores, retry_after, status_of
from varl.services.serving.reward_source import RewardSource


def routes(source: RewardSource, settings: CompatSettings) -> APIRouter:
    """``/compat/verl_omni``: the peer takes a whole URL."""
    router = peer_router("verl_omni")

    @serve(router, "POST", "")
    async def score(request: Request) -> Response:
        """Images and prompts in, scores out.

        The client tries 429 and 5xx again and takes any other status for final.
        """
        return await answered(source, prompted_scores(source, settings, request), _refusal)

    return router


def _refusal(refusal: Refusal) -> Response:
    return pickled({"error": str(refusal)}, status_of(refusal), retry_after(refusal))
