"""``POST /v1/compare``: which of two images people would prefer as the answer to one prompt, and how surely."""

from __future__ import annotations

import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from varl.services.serving.http.app import json_response
from varl.services.serving.http.bodies import media_type, read_json_as
from varl.services.serving.http.models import JsonSample, JsonSamples, ModelBody, Strict, model_body
from varl.services.serving.http.openapi import SCORE_STATUSES, BareRoute, problem_responses
from varl.services.serving.http.problems import problem
from varl.services.serving.scoring import MODEL_FAULTS, BatchResult, RawSample, SampleError, ScoreBatch
from varl.services.serving.service import ScoringService
from varl.services.serving.status import FieldFault, RejectionCode, RequestRejectedError, invalid

Components = Mapping[str, float]


class CompareRequest(Strict):
    """Body of ``POST /v1/compare``."""

    prompt: Annotated[str, Field(description="Text that both images were made from.")]
    a: Annotated[str, Field(description="Base64 of a whole PNG, JPEG or WebP file.")]
    b: Annotated[str, Field(description="Base64 of the other image's file.")]


class PreferenceBody(BaseModel):
    """The model's belief about one image: a normal distribution, unbounded."""

    mu: float
    log_sigma: float


class CompareResponse(BaseModel):
    """``probability``, in [0, 1], is that of a person preferring image a."""

    probability: float
    a: PreferenceBody
    b: PreferenceBody
    model: ModelBody


def preference_probability(a: Components, b: Components) -> float:
    """Probability in [0, 1] that a is preferred.

    The mean of the logistic function over the normal difference of the two.
    The model was trained on samples of that mean; this is its usual approximation, with a factor of pi/8 on the
    variance.
    """
    variance = math.exp(2 * a["log_sigma"]) + math.exp(2 * b["log_sigma"])
    scaled = (a["mu"] - b["mu"]) / math.sqrt(1 + math.pi / 8 * variance)
    return 0.5 * (1 + math.tanh(scaled / 2))  # the logistic function, without its overflow


def routes(service: ScoringService) -> APIRouter:
    """What the HPSv3 service answers besides what every reward service does."""
    router = APIRouter(route_class=BareRoute, tags=["rewards"])
    schema = {
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": CompareRequest.model_json_schema()}},
        }
    }

    @router.post(
        "/v1/compare",
        response_model=CompareResponse,
        responses=problem_responses(*SCORE_STATUSES),
        openapi_extra=schema,
    )
    async def compare(request: Request) -> Response:
        """Compare two images for one prompt."""
        with service.counted("http"):
            if media_type(request) != "application/json":
                raise RequestRejectedError(RejectionCode.UNSUPPORTED_TYPE, "content-type: application/json is taken")
            samples = await read_json_as(request, CompareRequest, _samples, service.settings.max_request_bytes)
            return _answer(await service.score(ScoreBatch(samples)))

    return router


def _samples(body: CompareRequest) -> tuple[RawSample, ...]:
    sides = (("a", body.a), ("b", body.b))
    return JsonSamples(samples=[JsonSample(id=side, prompt=body.prompt, image=image) for side, image in sides]).raw()


def _answer(result: BatchResult) -> Response:
    scores: dict[str, Components] = {}
    errors: dict[str, SampleError] = {}
    for side, outcome in zip(result.ids, result.outcomes, strict=True):
        if isinstance(outcome, SampleError):
            errors[side] = outcome
        else:
            scores[side] = outcome.components
    if errors:
        return _failure(errors)
    body = CompareResponse(
        probability=preference_probability(scores["a"], scores["b"]),
        a=PreferenceBody(**scores["a"]),
        b=PreferenceBody(**scores["b"]),
        model=model_body(result.model),
    )
    return json_response(body)


def _failure(errors: Mapping[str, SampleError]) -> Response:
    """A problem where the engine failed; raises the rejection where the request is at fault."""
    for side, error in errors.items():
        if error.code in MODEL_FAULTS:
            return problem(HTTPStatus.INTERNAL_SERVER_ERROR, error.code, f"{side}: {error.detail}")
    raise invalid(*dict.fromkeys(_fault(side, error) for side, error in errors.items()))


def _fault(side: str, error: SampleError) -> FieldFault:
    """A sample's error under the name of the field of the request; a prompt that both images share is named once."""
    field, _, detail = error.detail.partition(": ")
    return FieldFault(side if field == "image" else field, f"{error.code}: {detail}")
