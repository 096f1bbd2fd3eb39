"""slime's and miles' remote reward model: one sample a request, a bare number back; an overload is waited out here."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel

from varl.services.serving.compat.choice import chosen, serve
from varl.services.serving.compat.openrlhf import target_words
from varl.services.serving.compat.peer import CompatSettings, counted, peer_router, score_all
from varl.services.serving.compat.schema import json_body, refusals
from varl.services.serving.http.bodies import read_json_as
from varl.services.serving.image_text import last_image
from varl.services.serving.reward_source import RewardSource
from varl.services.serving.scoring import RawSample


class Part(BaseModel):
    """A part of a message; pictures and the like have no text."""

    text: str | None = None


class Message(BaseModel):
    """A message of a chat."""

    role: str
    content: str | list[Part]

    def text(self) -> str:
        """What it says."""
        if isinstance(self.content, str):
            return self.content
        return "\n".join(part.text for part in self.content if part.text)


class SampleBody(BaseModel):
    """Body of ``/compat/slime/score``.

    The prompt is text, or the messages of a chat, of which the user's last one counts: a trainer without a chat
    template sends those. In the response the last image is scored, as Base64 or data: URL; the label is a target
    word or a list of them, as text or number; null and "" stand for none.
    """

    prompt: str | list[Message]
    response: str
    label: Any = None


def routes(source: RewardSource, settings: CompatSettings) -> APIRouter:
    """``/score`` under /compat/slime."""
    router = peer_router("slime", "slime")

    @serve(router, "POST", "/score", responses=refusals(), openapi_extra=json_body(SampleBody))
    async def score(request: Request) -> float:
        """Score one image."""
        with counted(source):
            choice = chosen(source, request)
            sample = await read_json_as(request, SampleBody, _sample, settings.max_request_bytes)
            (score,) = await score_all(source, choice, [sample], settings.request_seconds)
        return score.value

    return router


def _sample(body: SampleBody) -> RawSample:
    return RawSample(
        "0", _prompt(body.prompt), last_image(body.response, "response"), target_words(body.label, "label")
    )


def _prompt(prompt: str | list[Message]) -> str:
    """The text; of a chat that of the user's last message, "" where there is none."""
    if isinstance(prompt, str):
        return prompt
    return next((message.text() for message in reversed(prompt) if message.role == "user"), "")
