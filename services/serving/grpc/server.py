"""gRPC: varl.v1.RewardService, reflection on request."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from functools import cache
from typing import Any

import grpc
from grpc_health.v1 import health

from varl.metadata import Metadata, MetadataError, from_struct
from varl.services.serving.grpc.counts import check_counts
from varl.services.serving.grpc.intake import Intake
from varl.services.serving.grpc.reflection import Reflection
from varl.services.serving.grpc.wire import Context, Requests, answered, parsed, to_bytes
from varl.services.serving.http.guard import connections_within
from varl.services.serving.scoring import BatchResult, ErrorCode, ModelInfo, Outcome, RawSample, SampleError, ScoreBatch
from varl.services.serving.service import ScoringService, check_number
from varl.services.serving.status import RejectionCode, RequestRejectedError
from varl.services.serving.tracing import server_span
from varl.v1 import reward_pb2

SERVICE_NAME = "varl.v1.RewardService"
_LARGE = 64 * 2**10  # bytes of a request whose parts are counted before they are made
_MOST_INT = 2**31 - 1  # that a channel argument can be


def server_options(max_request_bytes: int, max_connections: int) -> list[tuple[str, int]]:
    """Channel arguments.

    gRPC's own limits on sizes lie above ours: their RESOURCE_EXHAUSTED would read as load, and be retried for ever.
    """
    most = min(2 * max_request_bytes, _MOST_INT)
    return [
        ("grpc.max_allowed_incoming_connections", max_connections),
        ("grpc.server_handshake_timeout_ms", 10_000),
        ("grpc.max_connection_idle_ms", 60_000),  # without a call; clients open another by themselves
        ("grpc.max_concurrent_streams", 1024),
        ("grpc.max_metadata_size", 64 * 2**10),
        ("grpc.absolute_max_metadata_size", 64 * 2**10),
        ("grpc.compression_enabled_algorithms_bitset", 1),  # none: a kilobyte would unfold to a gigabyte
        ("grpc.max_receive_message_length", most),
        ("grpc.max_send_message_length", most),
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

    def __init__(self, service: ScoringService, intake: Intake) -> None:
        self._service, self._intake = service, intake

    @property
    def handler(self) -> grpc.GenericRpcHandler:  # type: ignore[type-arg] # generic in the stubs alone
        """All methods."""
        methods = {"Score": self.score, "GetInfo": self.get_info}
        handlers = {
            name: grpc.stream_unary_rpc_method_handler(method, response_serializer=to_bytes)
            for name, method in methods.items()
        }
        return grpc.method_handlers_generic_handler(SERVICE_NAME, handlers)

    async def score(self, requests: Requests, context: Context) -> reward_pb2.ScoreResponse:
        """Score a batch."""
        return await answered(context, self._scored(requests, context))

    async def _scored(self, requests: Requests, context: Context) -> reward_pb2.ScoreResponse:
        with self._service.counted("grpc"), server_span("RewardService/Score", context.invocation_metadata):
            request = self._parsed(await self._intake.message(requests))
            batch = await _batch(request, context.time_remaining())
            return _response(await self._service.score(batch), self._service.scorer.reward)

    def _parsed(self, data: bytes) -> reward_pb2.ScoreRequest:
        settings = self._service.settings
        _check_size(len(data), settings.max_request_bytes)
        if len(data) > _LARGE:
            check_counts(data, settings.max_samples)
        request = parsed(reward_pb2.ScoreRequest, data)
        check_number(len(request.samples), settings.max_samples)
        return request

    async def get_info(self, _: Requests, __: Context) -> reward_pb2.GetInfoResponse:
        """Name, model, formulas and limits of the service; the request is not read, as it has no fields."""
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


async def _batch(request: reward_pb2.ScoreRequest, seconds: float | None) -> ScoreBatch:
    deadline = None if seconds is None else time.monotonic() + seconds
    samples = []
    for sample in request.samples:
        samples.append(RawSample(sample.id, sample.prompt, sample.image, tuple(sample.target_words), _metadata(sample)))
        if sample.HasField("metadata"):
            await asyncio.sleep(0)  # turning much of it into Python's types takes long; others have their turn
    return ScoreBatch(tuple(samples), request.formula, deadline)


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
    settings = service.settings
    options = server_options(settings.max_request_bytes, connections_within(settings.max_connections))
    server = grpc.aio.server(options=options, interceptors=interceptors)
    intake = Intake(max(1, settings.max_in_flight_bytes // settings.max_request_bytes))
    server.add_generic_rpc_handlers((RewardServicer(service, intake).handler,))
    if service.settings.reflection:
        Reflection((SERVICE_NAME, health.SERVICE_NAME)).add_to(server)
    return server
