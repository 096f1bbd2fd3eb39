"""HTTP: /v1/score, /v1/info, /livez, /readyz, /metrics, /compat, OpenAPI at /docs, a page to try it at /."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import TypeVar

from fastapi import APIRouter, FastAPI, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel

from varl.services.serving.compat.mount import mount_compat
from varl.services.serving.http import problems
from varl.services.serving.http.bodies import check_query, media_type, parse_json, read_json_as, read_multipart
from varl.services.serving.http.models import (
    FormSamples,
    InfoBody,
    JsonSamples,
    JsonScoreRequest,
    MultipartScoreRequest,
    ScoreResponseBody,
    model_body,
    response_body,
)
from varl.services.serving.http.openapi import (
    INFO_STATUSES,
    SCORE_STATUSES,
    BareRoute,
    DocumentedApp,
    problem_responses,
    score_body,
)
from varl.services.serving.http.try_page import SCORE_PAGE, add_try_page
from varl.services.serving.reward_source import RewardSource
from varl.services.serving.scoring import RawSample, ScoreBatch
from varl.services.serving.service import ScoringService, State
from varl.services.serving.settings import HttpSettings
from varl.services.serving.status import RejectionCode, RequestRejectedError, shown

J = TypeVar("J", bound=JsonSamples)
F = TypeVar("F", bound=FormSamples)


def build_app(service: ScoringService, routes: Callable[[ScoringService], APIRouter] | None = None) -> FastAPI:
    """The HTTP API of a service; ``routes`` are what this reward offers beside the rest."""
    app = new_app(f"varl {service.scorer.reward} reward", JsonScoreRequest, MultipartScoreRequest)
    app.include_router(_score_routes(service))
    if routes is not None:
        app.include_router(routes(service))

    @app.get("/readyz", responses=problem_responses(HTTPStatus.SERVICE_UNAVAILABLE), tags=["probes"])
    async def readyz() -> dict[str, str]:
        """The model is loaded and requests are taken."""
        if service.state is not State.READY:
            raise RequestRejectedError(RejectionCode.NOT_READY, f"the service is {service.state}", retry_after=1.0)
        return {"status": "ready"}

    return finish_app(app, service, service.settings, service.metrics.render)


def _score_routes(service: ScoringService) -> APIRouter:
    router = APIRouter(prefix="/v1", route_class=BareRoute, tags=["rewards"])
    body = score_body(JsonScoreRequest, MultipartScoreRequest)

    @router.post(
        "/score", response_model=ScoreResponseBody, responses=problem_responses(*SCORE_STATUSES), openapi_extra=body
    )
    async def score(request: Request) -> Response:
        """Score samples; a bad sample has its own error and leaves the others alone."""
        with service.counted("http"):
            head, samples = await read_samples(request, JsonScoreRequest, MultipartScoreRequest, service.settings)
            result = await service.score(ScoreBatch(samples, head.formula))
            return json_response(response_body(service.scorer.reward, result))

    @router.get("/info", response_model=InfoBody, responses=problem_responses(*INFO_STATUSES))
    async def info(_: Request) -> Response:
        """Name, model, formulas and limits."""
        return json_response(_info(service))

    return router


def _info(service: ScoringService) -> InfoBody:
    scorer, settings = service.scorer, service.settings
    return InfoBody(
        reward=scorer.reward,
        model=model_body(scorer.model),
        formulas=list(scorer.formulas),
        max_samples=settings.max_samples,
        max_image_bytes=settings.max_image_bytes,
    )


# What a gateway's app shares with a service's.


def new_app(title: str, *shapes: type[BaseModel]) -> FastAPI:
    """An app whose errors are problems; ``shapes`` are those of bodies that its routes read themselves."""
    app = DocumentedApp(title, *shapes)
    problems.install(app)
    return app


def finish_app(app: FastAPI, source: RewardSource, settings: HttpSettings, render: Callable[[], bytes]) -> FastAPI:
    """Add the page, liveness, the metrics that ``render`` gives, and the compat routes."""
    add_try_page(app, SCORE_PAGE)

    @app.get("/livez", tags=["probes"])
    async def livez() -> dict[str, str]:
        """The process answers."""
        return {"status": "alive"}

    @app.get("/metrics", response_class=Response, tags=["probes"])
    async def metrics() -> Response:
        """Prometheus metrics."""
        return Response(render(), media_type=CONTENT_TYPE_LATEST)

    mount_compat(app, source, settings)
    return app


async def read_samples(
    request: Request, json: type[J], form: type[F], settings: HttpSettings
) -> tuple[J | F, tuple[RawSample, ...]]:
    """The request as JSON or as a form, whichever it declares, and its samples; raises RequestRejectedError.

    All that is asked for stands in the body: parameters in the query are refused rather than passed over.
    """
    check_query(request)
    match media_type(request):
        case "application/json":
            most = settings.max_request_bytes, settings.max_samples
            return await read_json_as(request, json, lambda body: (body, body.raw()), *most)
        case "multipart/form-data":
            text, files = await read_multipart(request, settings.max_request_bytes, settings.max_samples)
            head = parse_json(form, text, settings.max_samples)
            return head, head.raw(files)
        case other:
            detail = f"content-type: {shown(other)}; application/json or multipart/form-data is taken"
            raise RequestRejectedError(RejectionCode.UNSUPPORTED_TYPE, detail)


def json_response(body: BaseModel) -> Response:
    """The body as JSON."""
    return Response(body.model_dump_json(), media_type="application/json")
