"""The JSON shapes of the gateway's HTTP API, where they differ from those of one reward."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field

from varl.services.gateway.messages import model_info
from varl.services.serving.http.models import (
    FailureBody,
    FormSamples,
    JsonSamples,
    ModelBody,
    ScoreBody,
    Strict,
    model_body,
    result_bodies,
)
from varl.services.serving.reward_source import RewardAnswer
from varl.services.serving.status import STATUS, RejectionCode, RequestRejectedError
from varl.v1 import reward_pb2


class GatewayRequest(Strict):
    """What ``POST /v1/score`` of a gateway has beside samples."""

    rewards: Annotated[
        list[str] | None, Field(min_length=1, description="Names of the rewards wanted; default: all.")
    ] = None
    formulas: Annotated[
        dict[str, str],
        Field(default_factory=dict, description="Name of a formula by name of its reward; default: the reward's own."),
    ]


class JsonGatewayRequest(JsonSamples, GatewayRequest):
    """Body of a gateway's ``POST /v1/score`` as application/json."""


class MultipartGatewayRequest(FormSamples, GatewayRequest):
    """The field ``request`` of a gateway's ``POST /v1/score`` as multipart/form-data.

    Image files are parts named by their samples' ids.
    """


class RewardResults(BaseModel):
    """What one reward gave; results in the order of the samples."""

    model: ModelBody
    results: list[ScoreBody | FailureBody]


class RejectionBody(BaseModel):
    """Why one reward gave nothing; ``retry_after`` in seconds, where the same request may succeed later."""

    code: RejectionCode
    detail: str
    retryable: bool
    retry_after: float | None


class RewardFailure(BaseModel):
    """A reward without an answer."""

    error: RejectionBody


class GatewayResponseBody(BaseModel):
    """Answer of a gateway's ``POST /v1/score``: one entry for each reward that was wanted."""

    rewards: dict[str, RewardResults | RewardFailure]


class RewardInfo(BaseModel):
    """State of one reward, and what its service offers.

    The state is "ready" or why the reward cannot score; all else is null or empty if the service was never reached.
    """

    state: str
    model: ModelBody | None = None
    formulas: list[str] = []
    max_samples: int | None = None
    max_image_bytes: int | None = None


class GatewayInfoBody(BaseModel):
    """Answer of a gateway's ``GET /v1/info``; the limits are those that every reward takes."""

    rewards: dict[str, RewardInfo]
    max_samples: int
    max_image_bytes: int


class ReadyBody(BaseModel):
    """Answer of a gateway's ``GET /readyz``: at least one reward can score, and what each of them is doing."""

    status: str
    rewards: dict[str, str]


def answer_body(answer: RewardAnswer) -> RewardResults | RewardFailure:
    """The JSON shape of one reward's answer."""
    if isinstance(answer, RequestRejectedError):
        rejection = RejectionBody(
            code=answer.code,
            detail=answer.detail,
            retryable=STATUS[answer.code].retryable,
            retry_after=answer.retry_after,
        )
        return RewardFailure(error=rejection)
    return RewardResults(model=model_body(answer.model), results=result_bodies(answer))


def reward_info(state: str, info: reward_pb2.GetInfoResponse | None) -> RewardInfo:
    """The JSON shape of what a service offers."""
    if info is None:
        return RewardInfo(state=state)
    return RewardInfo(
        state=state,
        model=model_body(model_info(info.model)),
        formulas=list(info.formulas),
        max_samples=info.max_samples,
        max_image_bytes=info.max_image_bytes,
    )
