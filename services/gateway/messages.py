"""Between the seam and the wire: samples into messages, a service's answer into outcomes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from varl.metadata import to_struct
from varl.services.serving.scoring import (
    BatchResult,
    ErrorCode,
    ModelInfo,
    Outcome,
    RawSample,
    Region,
    SampleError,
    SampleScore,
    ScoredWord,
    polygon_fault,
)
from varl.v1 import reward_pb2


class BadAnswerError(Exception):
    """A service's answer does not fit the request."""


def sample_messages(samples: Sequence[RawSample]) -> list[reward_pb2.Sample]:
    """The samples as sent: files as they came in, none for a sample whose image failed before."""
    return [
        reward_pb2.Sample(
            id=sample.id,
            prompt=sample.prompt,
            image=sample.image if isinstance(sample.image, bytes) else b"",
            target_words=sample.target_words,
            metadata=to_struct(sample.metadata)
            if sample.metadata and not isinstance(sample.metadata, SampleError)
            else None,
        )
        for sample in samples
    ]


def batch_result(response: reward_pb2.ScoreResponse, samples: Sequence[RawSample]) -> BatchResult:
    """The outcomes in the order of the samples.

    An image that failed here keeps that error, whatever the service says of it.

    Raises:
        BadAnswerError: the results are not those of the samples.

    """
    ids = tuple(sample.id for sample in samples)
    if ids != tuple(result.id for result in response.results):
        raise BadAnswerError(f"{len(response.results)} results that are not those of the {len(ids)} samples")
    pairs = zip(samples, response.results, strict=True)
    outcomes = tuple(
        sample.image if isinstance(sample.image, SampleError) else _outcome(result) for sample, result in pairs
    )
    return BatchResult(ids, outcomes, model=model_info(response.model))


def model_info(model: reward_pb2.Model) -> ModelInfo:
    """Which engine and weights answered."""
    return ModelInfo(model.engine, model.name, model.revision)


def _outcome(result: reward_pb2.Result) -> Outcome:
    match result.WhichOneof("outcome"):
        case "score":
            return _score(result.score)
        case "error":
            return SampleError(_code(result.error.code), result.error.detail)
        case _:
            return SampleError(ErrorCode.ENGINE_FAILED, "the service gave neither a score nor an error")


def _score(score: reward_pb2.Score) -> Outcome:
    if not all(map(math.isfinite, (score.value, *score.components.values()))):
        return SampleError(ErrorCode.NOT_FINITE, "the service's answer is not a finite number")
    faults = [fault for region in score.regions if (fault := polygon_fault(region.polygon))]
    if faults:
        return SampleError(ErrorCode.ENGINE_FAILED, f"the service's answer has a region of {faults[0]}")
    words = tuple(ScoredWord(word.text, word.confidence, tuple(word.polygon)) for word in score.words)
    return SampleScore(score.value, dict(score.components), words, tuple(map(_region, score.regions)))


def _region(region: reward_pb2.Region) -> Region:
    return Region(tuple(region.polygon), region.label)


def _code(code: int) -> ErrorCode:
    """A code that this version does not know reads as the model's failure."""
    known = reward_pb2.ErrorCode.DESCRIPTOR.values_by_number.get(code)
    name = known.name.removeprefix("ERROR_CODE_") if known else ""
    return ErrorCode.__members__.get(name, ErrorCode.ENGINE_FAILED)
