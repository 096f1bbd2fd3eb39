"""HTTP beside gRPC: the page at /, and what it asks. A picture comes scale by scale, one line of JSON for each."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from http import HTTPStatus
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from varl.policy.base import Grid
from varl.services.rollout.preview import BASE, Frame, Preview, PreviewFailedError, Wish
from varl.services.serving.http.app import json_response, new_app
from varl.services.serving.http.bodies import read_json
from varl.services.serving.http.models import Strict
from varl.services.serving.http.openapi import INFO_STATUSES, BareRoute, problem_responses, reference_to
from varl.services.serving.http.try_page import add_try_page

_PAGE = Path(__file__).with_name("static") / "generate.html"
_MAX_BYTES = 64 * 2**10  # of a request; the prompt is all that can be long
_STATUSES = (
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.UNPROCESSABLE_ENTITY,
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.SERVICE_UNAVAILABLE,
)


class GenerateBody(Strict):
    """Body of ``POST /v1/generate``."""

    prompt: Annotated[str, Field(description="What is drawn.")]
    seed: Annotated[int, Field(ge=0, lt=2**63, description="The same seed draws the same picture.")] = 0
    temperature: Annotated[
        float | None, Field(ge=0.01, le=10, description="Logits are divided by it; default: the service's.")
    ] = None
    weights: Annotated[str, Field(description="A name from /v1/info.")] = BASE


class PreviewInfoBody(BaseModel):
    """Answer of ``GET /v1/info``: (height, width) of every scale in tokens, and of a picture in pixels."""

    model: str
    scales: list[Grid]
    height: int
    width: int
    weights: list[str]
    weight_version: int
    temperature: float
    max_prompt_chars: int


class FrameBody(BaseModel):
    """A line of the answer: the picture after ``scale`` scales of ``scales``, Base64 of a PNG file."""

    scale: int
    scales: int
    image: str


class FailureBody(BaseModel):
    """The last line where the picture could not be drawn to its end."""

    error: str


def build_preview_app(preview: Preview, model: str) -> FastAPI:
    """The HTTP API of a rollout service whose base model has this name."""
    app = new_app("varl rollout", GenerateBody, FrameBody, FailureBody)
    add_try_page(app, _PAGE)
    app.include_router(_routes(preview, model))

    @app.get("/livez", tags=["probes"])
    async def livez() -> dict[str, str]:
        """The process answers."""
        return {"status": "alive"}

    return app


def _routes(preview: Preview, model: str) -> APIRouter:
    router = APIRouter(prefix="/v1", route_class=BareRoute, tags=["pictures"])
    body = {"requestBody": {"required": True, "content": {"application/json": {"schema": reference_to(GenerateBody)}}}}

    @router.post("/generate", responses=problem_responses(HTTPStatus.UNAUTHORIZED, *_STATUSES), openapi_extra=body)
    async def generate(request: Request) -> Response:
        """Draw a picture; a line of JSON after each scale, the last of which is the picture itself."""
        wanted = await read_json(request, GenerateBody, _MAX_BYTES)
        temperature = preview.default.temperature if wanted.temperature is None else wanted.temperature
        params = replace(preview.default, temperature=temperature)
        scales = len(preview.loaded().policy.grids)
        frames = preview.draw(Wish(wanted.prompt, wanted.seed, params, wanted.weights))
        return StreamingResponse(_lines(frames, scales), media_type="application/x-ndjson")

    @router.get("/info", response_model=PreviewInfoBody, responses=problem_responses(*INFO_STATUSES))
    async def info(_: Request) -> Response:
        """The model, its scales, and the weights to choose from."""
        return json_response(_info(preview, model))

    return router


async def _lines(frames: AsyncGenerator[Frame], scales: int) -> AsyncGenerator[bytes]:
    try:
        async with aclosing(frames):
            async for frame in frames:
                image = b64encode(frame.png).decode()
                yield _line(FrameBody(scale=frame.scale + 1, scales=scales, image=image))
    except PreviewFailedError as error:
        yield _line(FailureBody(error=str(error)))


def _line(body: BaseModel) -> bytes:
    return body.model_dump_json().encode() + b"\n"


def _info(preview: Preview, model: str) -> PreviewInfoBody:
    loaded = preview.loaded()
    height, width = loaded.policy.image_size
    return PreviewInfoBody(
        model=model,
        scales=list(loaded.policy.grids),
        height=height,
        width=width,
        weights=list(preview.weights()),
        weight_version=loaded.weights.version,
        temperature=preview.default.temperature,
        max_prompt_chars=preview.limits.prompt_chars,
    )
