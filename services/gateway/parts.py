"""A batch in parts that a service takes: no more samples and bytes at a time than it says, joined again afterwards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from varl.services.serving.grpc.client import MAX_MESSAGE_BYTES
from varl.services.serving.scoring import BatchResult, ErrorCode, RawSample, SampleError
from varl.v1 import reward_pb2

_HEAD = 1024  # bytes for the formula
_EACH = 8  # bytes of a sample's tag and length


@dataclass(frozen=True)
class PartLimits:
    """What one request to a service may hold."""

    samples: int
    bytes: int


@dataclass(frozen=True)
class Part:
    """Messages, and the samples for which they stand."""

    messages: list[reward_pb2.Sample]
    samples: list[RawSample]


def part_limits(info: reward_pb2.GetInfoResponse) -> PartLimits:
    """The limits that a service states, and below them those of gRPC's messages; one that states none has ours."""
    return PartLimits(info.max_samples or 1, min(info.max_request_bytes or MAX_MESSAGE_BYTES, MAX_MESSAGE_BYTES))


def parts(messages: Sequence[reward_pb2.Sample], samples: Sequence[RawSample], limits: PartLimits) -> Iterator[Part]:
    """The batch in order, in as few parts as its order allows; a sample that fits in none is an error of its own."""
    part, size = Part([], []), _HEAD
    for message, sample in zip(messages, samples, strict=True):
        fitted, fitted_sample = _fitted(message, sample, limits.bytes)
        added = fitted.ByteSize() + _EACH
        if part.messages and (size + added > limits.bytes or len(part.messages) == limits.samples):
            yield part
            part, size = Part([], []), _HEAD
        part.messages.append(fitted)
        part.samples.append(fitted_sample)
        size += added
    yield part


def _fitted(message: reward_pb2.Sample, sample: RawSample, most: int) -> tuple[reward_pb2.Sample, RawSample]:
    size = message.ByteSize() + _HEAD + _EACH
    if size <= most:
        return message, sample
    error = SampleError(ErrorCode.IMAGE_TOO_LARGE, f"the sample has {size} bytes, at most {most} are taken")
    return reward_pb2.Sample(id=message.id), replace(sample, image=error)


def joined(results: Sequence[BatchResult]) -> BatchResult:
    """The results of a batch's parts as one; raises ValueError where different models gave them."""
    models = {result.model for result in results}
    if len(models) > 1:
        names = " and ".join(sorted(f"{model.name} {model.revision}" for model in models))
        raise ValueError(f"replicas with different models answered: {names}")
    ids = tuple(name for result in results for name in result.ids)
    outcomes = tuple(outcome for result in results for outcome in result.outcomes)
    return BatchResult(ids, outcomes, model=results[0].model)
