"""What a gateway passes on: a sample's metadata to the services, a score's regions to the caller."""

from __future__ import annotations

from varl.metadata import from_struct
from varl.services.gateway.gateway import _bounded
from varl.services.gateway.messages import batch_result, sample_messages
from varl.services.serving.scoring import ErrorCode, RawSample, Region, SampleError, SampleScore
from varl.v1 import reward_pb2

SQUARE = [0.0, 0.0, 8.0, 0.0, 8.0, 8.0]


def test_metadata_goes_to_the_service_and_what_is_too_deep_does_not() -> None:
    deep = RawSample("b", "p", b"png", metadata={"a": [[[[[[[[]]]]]]]]})
    samples = [_bounded(sample, 100) for sample in (RawSample("a", "p", b"png", metadata={"tone": ["dark", 3]}), deep)]
    first, second = sample_messages(samples)
    assert from_struct(first.metadata) == {"tone": ["dark", 3]}
    assert (second.image, second.HasField("metadata")) == (b"", False)
    assert isinstance(samples[1].image, SampleError)
    assert samples[1].image.code is ErrorCode.INVALID_FIELD
    assert samples[1].image.detail.startswith("metadata: ")


def test_regions_come_back_and_one_that_is_no_polygon_is_the_models_failure() -> None:
    polygons = (SQUARE, SQUARE[:5])
    scores = [
        reward_pb2.Score(value=1, regions=[reward_pb2.Region(polygon=polygon, label="face")]) for polygon in polygons
    ]
    response = reward_pb2.ScoreResponse(
        results=[reward_pb2.Result(id=name, score=score) for name, score in zip("ab", scores, strict=True)]
    )
    good, bad = batch_result(response, [RawSample("a", "p", b""), RawSample("b", "p", b"")]).outcomes
    assert good == SampleScore(1.0, {}, (), (Region(tuple(SQUARE), "face"),))
    assert isinstance(bad, SampleError)
    assert bad.code is ErrorCode.ENGINE_FAILED
