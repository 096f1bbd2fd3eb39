"""The gateway over HTTP: /v1/score and /v1/info of several rewards, and what every service has."""

from __future__ import annotations

import math
from collections.abc import Mapping
from http import HTTPStatus

from fastapi import APIRouter, FastAPI, Request, Response

from varl.services.gateway.backend import READY
from varl.services.gateway.gateway import Gateway
from varl.services.gateway.http_models import (
    GatewayInfoBody,
    GatewayResponseBody,
    JsonGatewayRequest,
    MultipartGatewayRequest,
    ReadyBody,
    answer_body,
    reward_info,
)
from varl.services.serving.http.app import finish_app, json_response, new_app, read_samples
from varl.services.serving.http.openapi import INFO_STATUSES, SCORE_STATUSES, BareRoute, problem_responses, score_body
from varl.services.serving.reward_source import RewardAnswer
from varl.services.serving.scoring import ScoreBatch
from varl.services.serving.status import STATUS, RejectionCode, RequestRejectedError

_STATUSES = sorted({*SCORE_STATUSES, HTTPStatus.NOT_FOUND, HTTPStatus.BAD_GATEWAY})


def build_gateway_app(gateway: Gateway) -> FastAPI:
    """The HTTP API of a gateway."""
    app = new_app("varl gateway", JsonGatewayRequest, MultipartGatewayRequest)
    app.include_router(_score_routes(gateway))

    @app.get("/readyz", responses=problem_responses(HTTPStatus.SERVICE_UNAVAILABLE), tags=["probes"])
    async def readyz() -> ReadyBody:
        """At least one reward can score."""
        states = gateway.states()
        if READY not in states.values():
            detail = "no reward can score: " + ", ".join(f"{name} is {state}" for name, state in states.items())
            raise RequestRejectedError(RejectionCode.NOT_READY, detail, retry_after=1.0)
        return ReadyBody(status=READY, rewards=dict(states))

    return finish_app(app, gateway, gateway.settings, gateway.metrics.render)


def _score_routes(gateway: Gateway) -> APIRouter:
    router = APIRouter(prefix="/v1", route_class=BareRoute, tags=["rewards"])
    body = score_body(JsonGatewayRequest, MultipartGatewayRequest)

    @router.post(
        "/score", response_model=GatewayResponseBody, responses=problem_responses(*_STATUSES), openapi_extra=body
    )
    async def score(request: Request) -> Response:
        """Score samples by several rewards.

        A reward that is unavailable or overloaded has its error and leaves the others alone.
        """
        with gateway.counted("http"):
            head, samples = await read_samples(request, JsonGatewayRequest, MultipartGatewayRequest, gateway.settings)
            names = gateway.rewards if head.rewards is None else tuple(dict.fromkeys(head.rewards))
            answers = await gateway.score_rewards(ScoreBatch(samples), names, head.formulas)
            check_answered(answers)
            return json_response(
                GatewayResponseBody(rewards={name: answer_body(answer) for name, answer in answers.items()})
            )

    @router.get("/info", response_model=GatewayInfoBody, responses=problem_responses(*INFO_STATUSES))
    async def info(_: Request) -> Response:
        """The rewards, and the limits that all of them take."""
        return json_response(_info(gateway))

    return router


def check_answered(answers: Mapping[str, RewardAnswer]) -> None:
    """Raises RequestRejectedError where no reward answered: the rejection after which coming again is of most use."""
    rejections = [answer for answer in answers.values() if isinstance(answer, RequestRejectedError)]
    if len(rejections) < len(answers):
        return
    best = min(rejections, key=_uselessness)
    detail = "; ".join(dict.fromkeys(rejection.detail for rejection in rejections))
    raise RequestRejectedError(best.code, detail, best.faults, best.retry_after)


def _uselessness(rejection: RequestRejectedError) -> tuple[bool, float]:
    later = math.inf if rejection.retry_after is None else rejection.retry_after
    return not STATUS[rejection.code].retryable, later


def _info(gateway: Gateway) -> GatewayInfoBody:
    states, infos, settings = gateway.states(), gateway.infos(), gateway.settings
    known = [info for info in infos.values() if info is not None]
    return GatewayInfoBody(
        rewards={name: reward_info(states[name], info) for name, info in infos.items()},
        max_samples=min([settings.max_samples, *(info.max_samples for info in known)]),
        max_image_bytes=min([settings.max_image_bytes, *(info.max_image_bytes for info in known)]),
    )
