"""HTTP: /v1/score, /v1/info, /livez, /readyz, /metrics, OpenAPI at /docs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from email.message import Message
from http import HTTPStatus
from typing import Any, TypeVar

from fastapi import FastAPI, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel, ValidationError
from pydantic.json_schema import models_json_schema
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from services.serving import problems
from services.serving.http_models import InfoBody, JsonScoreRequest, MultipartScoreRequest, ScoreResponseBody, model_body, response_body
from services.serving.scoring import ScoreBatch
from services.serving.service import ScoringService, State
from services.serving.status import FieldFault, RejectionCode, RequestRejectedError, invalid

_, _DEFINITIONS = models_json_schema(
    [(JsonScoreRequest, "validation"), (MultipartScoreRequest, "validation"), (problems.Problem, "serialization")],
    ref_template="#/components/schemas/{model}",
)


def _schema(shape: type[BaseModel]) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{shape.__name__}"}


def _problems(*statuses: HTTPStatus) -> dict[int | str, dict[str, Any]]:
    content = {"application/problem+json": {"schema": _schema(problems.Problem)}}
    return {status.value: {"description": status.phrase, "content": content} for status in statuses}


_SCORE_PROBLEMS = _problems(
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    HTTPStatus.UNPROCESSABLE_ENTITY,
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.SERVICE_UNAVAILABLE,
)
_FORM = {
    "type": "object",
    "required": ["request"],
    "properties": {"request": _schema(MultipartScoreRequest)},
    "additionalProperties": {"type": "string", "format": "binary", "description": "An image file; the part's name is its sample's id."},
}
_BODY = {"required": True, "content": {"application/json": {"schema": _schema(JsonScoreRequest)}, "multipart/form-data": {"schema": _FORM}}}


class _App(FastAPI):
    def openapi(self) -> dict[str, Any]:
        """The schema, with the shapes that the routes read by themselves."""
        schema = super().openapi()
        schema["components"]["schemas"].update(_DEFINITIONS["$defs"])
        return schema


T = TypeVar("T", bound=BaseModel)


def build_app(service: ScoringService) -> FastAPI:
    """The HTTP face of a service."""
    app = _App(title=f"varl {service.scorer.reward} reward", version="1")
    problems.install(app)

    @app.post("/v1/score", response_model=ScoreResponseBody, responses=_SCORE_PROBLEMS, openapi_extra={"requestBody": _BODY})
    async def score(request: Request) -> Response:
        """Score samples; a bad sample has its own error and leaves the others alone."""
        with service.counted("http"):
            batch = await _read_batch(request, service.settings.max_request_bytes, service.settings.max_samples)
            body = response_body(service.scorer.reward, await service.score(batch))
            return Response(body.model_dump_json(), media_type="application/json")

    @app.get("/v1/info")
    async def info() -> InfoBody:
        """Name, model, formulas and limits."""
        scorer, settings = service.scorer, service.settings
        return InfoBody(
            reward=scorer.reward,
            model=model_body(scorer.model),
            formulas=list(scorer.formulas),
            max_samples=settings.max_samples,
            max_image_bytes=settings.max_image_bytes,
        )

    @app.get("/livez")
    async def livez() -> dict[str, str]:
        """The process answers."""
        return {"status": "alive"}

    @app.get("/readyz", responses=_problems(HTTPStatus.SERVICE_UNAVAILABLE))
    async def readyz() -> dict[str, str]:
        """The model is loaded and requests are taken."""
        if service.state is not State.READY:
            raise RequestRejectedError(RejectionCode.NOT_READY, f"the service is {service.state}", retry_after=1.0)
        return {"status": "ready"}

    @app.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """Prometheus metrics."""
        return Response(service.metrics.render(), media_type=CONTENT_TYPE_LATEST)

    return app


async def _read_batch(request: Request, max_bytes: int, max_samples: int) -> ScoreBatch:
    """The request as JSON or as a form, whichever it declares."""
    declared = Message()
    declared["content-type"] = request.headers.get("content-type", "")
    chunks = _limited(request, max_bytes)
    match declared.get_content_type():
        case "application/json":
            return _parse(JsonScoreRequest, b"".join([chunk async for chunk in chunks])).batch()
        case "multipart/form-data":
            return await _read_form(request, chunks, max_bytes, max_samples)
        case other:
            raise RequestRejectedError(
                RejectionCode.UNSUPPORTED_TYPE, f"content-type: {other}; application/json or multipart/form-data is taken"
            )


def _parse(shape: type[T], text: bytes | str) -> T:
    """JSON of one shape; what is no JSON is malformed, JSON of another shape has its fields named."""
    try:
        return shape.model_validate_json(text)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)
    if found[0]["type"] == "json_invalid":
        raise RequestRejectedError(RejectionCode.MALFORMED, found[0]["msg"])
    raise invalid(*(FieldFault(_path(fault["loc"]), fault["msg"]) for fault in found))


def _path(location: tuple[int | str, ...]) -> str:
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return text.removeprefix(".")


async def _limited(request: Request, max_bytes: int) -> AsyncIterator[bytes]:
    """The body, refused as soon as it is, or says it is, too long. Starlette's own limit answers in plain text."""
    length = request.headers.get("content-length", "")
    total = int(length) if length.isdecimal() else 0
    detail = f"the request has more than {max_bytes} bytes"
    if total > max_bytes:
        raise RequestRejectedError(RejectionCode.REQUEST_TOO_LARGE, detail)
    total = 0
    async for chunk in request.stream():
        total += len(chunk)
        if total > max_bytes:
            raise RequestRejectedError(RejectionCode.REQUEST_TOO_LARGE, detail)
        yield chunk


async def _read_form(request: Request, chunks: AsyncIterator[bytes], max_bytes: int, max_samples: int) -> ScoreBatch:
    parser = MultiPartParser(request.headers, chunks, max_files=max_samples + 1, max_fields=1, max_part_size=max_bytes)  # type: ignore[arg-type]
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError) as error:  # KeyError: no boundary
        raise RequestRejectedError(RejectionCode.MALFORMED, f"multipart/form-data: {error}") from error
    try:
        return await _form_batch(form)
    finally:
        await form.close()


async def _form_batch(form: FormData) -> ScoreBatch:
    head = form.get("request")
    if head is None:
        raise invalid(FieldFault("request", "the field is missing"))
    text = await head.read() if isinstance(head, UploadFile) else head
    body = _parse(MultipartScoreRequest, text)
    files = {name: part for name, part in form.multi_items() if name != "request"}
    unknown = sorted(files.keys() - {sample.id for sample in body.samples})
    if unknown:
        raise invalid(*(FieldFault(name, "no sample has this id") for name in unknown))
    return body.batch({name: await part.read() for name, part in files.items() if isinstance(part, UploadFile)})
