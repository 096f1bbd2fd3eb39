"""The JSON shapes of the HTTP face."""

from __future__ import annotations

import binascii
from base64 import b64decode
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from services.serving.scoring import BatchResult, ErrorCode, ModelInfo, Outcome, RawSample, SampleError, ScoreBatch


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class SampleHead(_Strict):
    """A sample without its image."""

    id: Annotated[str, Field(min_length=1, max_length=256, description="Echoed in the result; unique within the request.")]
    prompt: Annotated[str, Field(description="Text the image was made from.")]
    target_words: Annotated[list[str] | None, Field(description="OCR: the words wanted; else the quoted spans of the prompt.")] = None

    def raw(self, image: bytes | SampleError) -> RawSample:
        """The sample with its image."""
        return RawSample(self.id, self.prompt, image, tuple(self.target_words or ()))


class JsonSample(SampleHead):
    """A sample with its image inside."""

    image: Annotated[str, Field(description="Base64 of a whole PNG, JPEG or WebP file.")]


class _Request(_Strict):
    formula: Annotated[str, Field(description="Name of a formula from /v1/info; empty: the default.")] = ""


class JsonScoreRequest(_Request):
    """Body of ``POST /v1/score`` as application/json."""

    samples: Annotated[list[JsonSample], Field(min_length=1)]

    def batch(self) -> ScoreBatch:
        """What the service scores; an image that is no Base64 is its sample's error."""
        return ScoreBatch(tuple(sample.raw(_bytes(sample.image)) for sample in self.samples), self.formula)


class MultipartScoreRequest(_Request):
    """The field ``request`` of ``POST /v1/score`` as multipart/form-data; each image is a file part named by its sample's id."""

    samples: Annotated[list[SampleHead], Field(min_length=1)]

    def batch(self, files: dict[str, bytes]) -> ScoreBatch:
        """What the service scores; an absent file is its sample's error."""
        return ScoreBatch(tuple(sample.raw(files.get(sample.id) or _no_file(sample.id)) for sample in self.samples), self.formula)


def _bytes(text: str) -> bytes | SampleError:
    try:
        return b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        return SampleError(ErrorCode.BAD_IMAGE, f"image: no Base64: {error}")


def _no_file(name: str) -> SampleError:
    return SampleError(ErrorCode.INVALID_FIELD, f"image: no file part is named {name!r}, or it is empty")


class ModelBody(BaseModel):
    """Which engine and weights answered."""

    engine: str
    name: str
    revision: str


class WordBody(BaseModel):
    """A word that was read; polygon corners in pixels of the image."""

    text: str
    confidence: float
    polygon: list[tuple[float, float]]


class ScoreBody(BaseModel):
    """A sample's reward."""

    id: str
    value: float
    components: dict[str, float]
    words: list[WordBody]


class ErrorBody(BaseModel):
    """Why a sample has no reward."""

    code: ErrorCode
    detail: str


class FailureBody(BaseModel):
    """A sample without reward."""

    id: str
    error: ErrorBody


class ScoreResponseBody(BaseModel):
    """Answer of ``POST /v1/score``; results in the order of the samples."""

    reward: str
    model: ModelBody
    results: list[ScoreBody | FailureBody]


class InfoBody(BaseModel):
    """Answer of ``GET /v1/info``."""

    reward: str
    model: ModelBody
    formulas: list[str]
    max_samples: int
    max_image_bytes: int


def model_body(model: ModelInfo) -> ModelBody:
    """The JSON shape of a model."""
    return ModelBody(engine=model.engine, name=model.name, revision=model.revision)


def response_body(reward: str, result: BatchResult) -> ScoreResponseBody:
    """The JSON shape of a result."""
    results = [_result(name, outcome) for name, outcome in zip(result.ids, result.outcomes, strict=True)]
    return ScoreResponseBody(reward=reward, model=model_body(result.model), results=results)


def _result(name: str, outcome: Outcome) -> ScoreBody | FailureBody:
    if isinstance(outcome, SampleError):
        return FailureBody(id=name, error=ErrorBody(code=outcome.code, detail=outcome.detail))
    words = [
        WordBody(text=word.text, confidence=word.confidence, polygon=list(zip(word.polygon[::2], word.polygon[1::2], strict=True)))
        for word in outcome.words
    ]
    return ScoreBody(id=name, value=outcome.value, components=dict(outcome.components), words=words)
