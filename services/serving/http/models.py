"""The JSON shapes of the HTTP API."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence, Set
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from varl.services.serving.http.forms import decoded_name
from varl.services.serving.image_text import image_file
from varl.services.serving.scoring import BatchResult, ErrorCode, ModelInfo, Outcome, RawSample, SampleError
from varl.services.serving.status import FieldFault, invalid, shown


class Strict(BaseModel):
    """Unknown fields and other types are refused."""

    model_config = ConfigDict(extra="forbid", strict=True)


class SampleHead(Strict):
    """A sample without its image."""

    id: Annotated[
        str, Field(min_length=1, max_length=256, description="Echoed in the result; unique within the request.")
    ]
    prompt: Annotated[str, Field(description="Text the image was made from.")]
    target_words: Annotated[
        list[str] | None, Field(description="OCR: the words wanted; else the quoted spans of the prompt.")
    ] = None
    metadata: Annotated[
        dict[str, Any] | None,
        Field(description="What a reward needs beside the prompt: at most 16 KiB as JSON, nested at most 8 deep."),
    ] = None

    def raw(self, image: bytes | SampleError) -> RawSample:
        """The sample with its image."""
        return RawSample(self.id, self.prompt, image, tuple(self.target_words or ()), self.metadata or {})


class JsonSample(SampleHead):
    """A sample with its image inside."""

    image: Annotated[
        str, Field(description="Base64 of a whole PNG, JPEG or WebP file, wrapped or URL-safe too, or its data: URL.")
    ]


class JsonSamples(Strict):
    """Samples of a body that is application/json."""

    samples: Annotated[list[JsonSample], Field(min_length=1)]

    def raw(self) -> tuple[RawSample, ...]:
        """The samples with their images; an image that is no Base64 is its sample's error."""
        return tuple(sample.raw(image_file(sample.image, "image")) for sample in self.samples)


class FormSamples(Strict):
    """Samples in the field ``request`` of a body that is multipart/form-data.

    Each image is a file part named by its sample's id.
    """

    samples: Annotated[list[SampleHead], Field(min_length=1)]

    def raw(self, files: Mapping[str, bytes]) -> tuple[RawSample, ...]:
        """The samples with their images; an absent file is its sample's error.

        Raises:
            RequestRejectedError: a file belongs to no sample, two to one, or a sample has the name of the field itself.

        """
        for index, sample in enumerate(self.samples):
            if sample.id == "request":
                raise invalid(FieldFault(f"samples[{index}].id", "'request' is the field's own name in a form"))
        named = _by_id(files, {sample.id for sample in self.samples})
        return tuple(sample.raw(named.get(sample.id) or _no_file(sample.id)) for sample in self.samples)


class ScoreRequest(Strict):
    """What ``POST /v1/score`` of one reward has beside samples."""

    formula: Annotated[str, Field(description="Name of a formula from /v1/info; empty: the default.")] = ""


class JsonScoreRequest(JsonSamples, ScoreRequest):
    """Body of ``POST /v1/score`` as application/json."""


class MultipartScoreRequest(FormSamples, ScoreRequest):
    """The field ``request`` of ``POST /v1/score`` as multipart/form-data.

    Each image is a file part named by its sample's id.
    """


def _by_id(files: Mapping[str, bytes], ids: Set[str]) -> Mapping[str, bytes]:
    """The files by their samples' ids; a name that is none may be one with its quotes and line ends encoded."""
    places = {name: name if name in ids else decoded_name(name) for name in sorted(files)}
    unknown = [FieldFault(name, "no sample has this id") for name, place in places.items() if place not in ids]
    counts = Counter(places.values())
    twice = [FieldFault(place, "stands twice") for place, count in counts.items() if count > 1]
    if unknown or twice:
        raise invalid(*unknown, *twice)
    return {place: files[name] for name, place in places.items()}


def _no_file(name: str) -> SampleError:
    return SampleError(ErrorCode.INVALID_FIELD, f"image: no file part is named {shown(name)}, or it is empty")


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


class RegionBody(BaseModel):
    """Where in the image something is that the reward depends on; polygon corners in pixels of the image."""

    polygon: list[tuple[float, float]]
    label: str


class ScoreBody(BaseModel):
    """A sample's reward."""

    id: str
    value: float
    components: dict[str, float]
    words: list[WordBody]
    regions: list[RegionBody]


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
    return ScoreResponseBody(reward=reward, model=model_body(result.model), results=result_bodies(result))


def result_bodies(result: BatchResult) -> list[ScoreBody | FailureBody]:
    """The JSON shapes of the outcomes."""
    return [_result(name, outcome) for name, outcome in zip(result.ids, result.outcomes, strict=True)]


def _result(name: str, outcome: Outcome) -> ScoreBody | FailureBody:
    if isinstance(outcome, SampleError):
        return FailureBody(id=name, error=ErrorBody(code=outcome.code, detail=outcome.detail))
    words = [
        WordBody(text=word.text, confidence=word.confidence, polygon=_corners(word.polygon)) for word in outcome.words
    ]
    regions = [RegionBody(polygon=_corners(region.polygon), label=region.label) for region in outcome.regions]
    return ScoreBody(id=name, value=outcome.value, components=dict(outcome.components), words=words, regions=regions)


def _corners(polygon: Sequence[float]) -> list[tuple[float, float]]:
    return list(zip(polygon[::2], polygon[1::2], strict=True))
