"""gRPC: varl.v1.RewardService, reflection on request."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import cache
from typing import Any

import grpc
from grpc_health.v1 import health

from varl.metadata import Metadata, MetadataError, from_struct
from varl.services.serving.grpc.reflection import Reflection
from varl.services.serving.grpc.wire import Context, abort, parsed, to_bytes
from varl.services.serving.scoring import BatchResult, ErrorCode, ModelInfo, Outcome, RawSample, SampleError, ScoreBatch
from varl.services.serving.service import ScoringService
from varl.services.serving.status import RejectionCode, RequestRejectedError
from varl.services.serving.tracing import server_span
from varl.v1 import reward_pb2

SERVICE_NAME = "varl.v1.RewardService"


def server_options(max_request_bytes: int) -> list[tuple[str, int]]:
    """Channel arguments.

    gRPC's own size limit lies above ours: its RESOURCE_EXHAUSTED would read as load, and be retried for ever.
    """
    return [
        ("grpc.max_receive_message_length", 2 * max_request_bytes),
        ("grpc.max_send_message_length", 2 * max_request_bytes),
        ("grpc.so_reuseport", 0),  # a taken port is an error, not a shared one
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.max_connection_age_ms", 300_000),  # clients look again where replicas are, and find new ones
        ("grpc.max_connection_age_grace_ms", 600_000),  # above the longest request
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),  # clients ping every 30 s
    ]


class RewardServicer:
    """RewardService over a ``ScoringService``."""

    def __init__(self, service: ScoringService) -> None:
        self._service = service

    @property
    def handler(self) -> grpc.GenericRpcHandler:  # type: ignore[type-arg] # generic in the stubs alone
        """All methods."""
        methods = {"Score": self.score, "GetInfo": self.get_info}
        handlers = {
            name: grpc.unary_unary_rpc_method_handler(method, response_serializer=to_bytes)
            for name, method in methods.items()
        }
        return grpc.method_handlers_generic_handler(SERVICE_NAME, handlers)

    async def score(self, data: bytes, context: Context) -> reward_pb2.ScoreResponse:
        """Score a batch."""
        try:
            with self._service.counted("grpc"), server_span("RewardService/Score", context.invocation_metadata):
                _check_size(len(data), self._service.settings.max_request_bytes)
                request = parsed(reward_pb2.ScoreRequest, data)
                return _response(
                    await self._service.score(_batch(request, context.time_remaining())), self._service.scorer.reward
                )
        except RequestRejectedError as rejection:
            await abort(context, rejection)

    async def get_info(self, data: bytes, context: Context) -> reward_pb2.GetInfoResponse:
        """Name, model, formulas and limits of the service, whatever the request holds: it has no fields."""
        scorer, settings = self._service.scorer, self._service.settings
        return reward_pb2.GetInfoResponse(
            reward=scorer.reward,
            model=_model(scorer.model),
            formulas=scorer.formulas,
            max_samples=settings.max_samples,
            max_image_bytes=settings.max_image_bytes,
            max_request_bytes=settings.max_request_bytes,
        )


def _check_size(size: int, most: int) -> None:
    if size > most:
        raise RequestRejectedError(
            RejectionCode.REQUEST_TOO_LARGE, f"the request has {size} bytes, at most {most} are taken"
        )


def _batch(request: reward_pb2.ScoreRequest, seconds: float | None) -> ScoreBatch:
    samples = tuple(_sample(sample) for sample in request.samples)
    return ScoreBatch(samples, request.formula, None if seconds is None else time.monotonic() + seconds)


def _sample(sample: reward_pb2.Sample) -> RawSample:
    return RawSample(sample.id, sample.prompt, sample.image, tuple(sample.target_words), _metadata(sample))


def _metadata(sample: reward_pb2.Sample) -> Metadata | SampleError:
    try:
        return from_struct(sample.metadata) if sample.HasField("metadata") else {}
    except MetadataError as error:
        return SampleError(ErrorCode.INVALID_FIELD, str(error))


def _response(result: BatchResult, reward: str) -> reward_pb2.ScoreResponse:
    results = [_result(name, outcome) for name, outcome in zip(result.ids, result.outcomes, strict=True)]
    return reward_pb2.ScoreResponse(reward=reward, model=_model(result.model), results=results)


@cache
def _model(model: ModelInfo) -> reward_pb2.Model:
    return reward_pb2.Model(engine=model.engine, name=model.name, revision=model.revision)


def _result(name: str, outcome: Outcome) -> reward_pb2.Result:
    if isinstance(outcome, SampleError):
        return reward_pb2.Result(
            id=name, error=reward_pb2.ScoreError(code=f"ERROR_CODE_{outcome.code.name}", detail=outcome.detail)
        )
    words = [
        reward_pb2.Word(text=word.text, confidence=word.confidence, polygon=word.polygon) for word in outcome.words
    ]
    regions = [reward_pb2.Region(polygon=region.polygon, label=region.label) for region in outcome.regions]
    score = reward_pb2.Score(value=outcome.value, components=outcome.components, words=words, regions=regions)
    return reward_pb2.Result(id=name, score=score)


def build_server(service: ScoringService, interceptors: Sequence[Any] = ()) -> grpc.aio.Server:
    """A gRPC server with the reward service and, where set, reflection; no port yet."""
    server = grpc.aio.server(options=server_options(service.settings.max_request_bytes), interceptors=interceptors)
    server.add_generic_rpc_handlers((RewardServicer(service).handler,))
    if service.settings.reflection:
        Reflection((SERVICE_NAME, health.SERVICE_NAME)).add_to(server)
    return server
