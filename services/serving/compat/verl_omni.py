"""verl-omni's HTTP scorer: one image a request, many requests at a time."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from services.serving.compat.deepgen_rl import scores
from services.serving.compat.peer import CompatSettings
from services.serving.compat.pickled import Refusal, answered, pickled, retry_after, status_of
from services.serving.openapi import WatchedRoute
from services.serving.source import RewardSource


def routes(source: RewardSource, settings: CompatSettings) -> APIRouter:
    """``/compat/verl_omni``: the peer takes a whole URL."""
    router = APIRouter(prefix="/compat/verl_omni", route_class=WatchedRoute, include_in_schema=False)

    @router.post("")
    @router.post("/")
    async def score(request: Request, reward: str | None = None) -> Response:
        """Images and prompts in, scores out; the client tries 429 and 5xx again and takes any other status for final."""
        return await answered(scores(source, settings, request, reward), _refusal)

    return router


def _refusal(refusal: Refusal) -> Response:
    return pickled({"error": str(refusal)}, status_of(refusal), retry_after(refusal))
