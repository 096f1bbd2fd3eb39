"""verl-omni's HTTP scorer: one image a request, many requests at a time."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from varl.services.serving.compat.deepgen_rl import scores
from varl.services.serving.compat.peer import CompatSettings, peer_router
from varl.services.serving.compat.pickled import Refusal, answered, pickled, retry_after, status_of
from varl.services.serving.reward_source import RewardSource


def routes(source: RewardSource, settings: CompatSettings) -> APIRouter:
    """``/compat/verl_omni``: the peer takes a whole URL."""
    router = peer_router("verl_omni")

    @router.post("")
    @router.post("/")
    async def score(request: Request, reward: str | None = None) -> Response:
        """Images and prompts in, scores out.

        The client tries 429 and 5xx again and takes any other status for final.
        """
        return await answered(scores(source, settings, request, reward), _refusal)

    return router


def _refusal(refusal: Refusal) -> Response:
    return pickled({"error": str(refusal)}, status_of(refusal), retry_after(refusal))
