from google.protobuf import struct_pb2 as _struct_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ErrorCode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ERROR_CODE_UNSPECIFIED: _ClassVar[ErrorCode]
    ERROR_CODE_BAD_IMAGE: _ClassVar[ErrorCode]
    ERROR_CODE_IMAGE_TOO_LARGE: _ClassVar[ErrorCode]
    ERROR_CODE_NO_TARGET: _ClassVar[ErrorCode]
    ERROR_CODE_PROMPT_TOO_LONG: _ClassVar[ErrorCode]
    ERROR_CODE_ENGINE_FAILED: _ClassVar[ErrorCode]
    ERROR_CODE_NOT_FINITE: _ClassVar[ErrorCode]
    ERROR_CODE_INVALID_FIELD: _ClassVar[ErrorCode]
    ERROR_CODE_TOO_MUCH_TEXT: _ClassVar[ErrorCode]
ERROR_CODE_UNSPECIFIED: ErrorCode
ERROR_CODE_BAD_IMAGE: ErrorCode
ERROR_CODE_IMAGE_TOO_LARGE: ErrorCode
ERROR_CODE_NO_TARGET: ErrorCode
ERROR_CODE_PROMPT_TOO_LONG: ErrorCode
ERROR_CODE_ENGINE_FAILED: ErrorCode
ERROR_CODE_NOT_FINITE: ErrorCode
ERROR_CODE_INVALID_FIELD: ErrorCode
ERROR_CODE_TOO_MUCH_TEXT: ErrorCode

class Sample(_message.Message):
    __slots__ = ("id", "prompt", "image", "target_words", "metadata")
    ID_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    TARGET_WORDS_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    id: str
    prompt: str
    image: bytes
    target_words: _containers.RepeatedScalarFieldContainer[str]
    metadata: _struct_pb2.Struct
    def __init__(self, id: _Optional[str] = ..., prompt: _Optional[str] = ..., image: _Optional[bytes] = ..., target_words: _Optional[_Iterable[str]] = ..., metadata: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ...) -> None: ...

class ScoreRequest(_message.Message):
    __slots__ = ("samples", "formula")
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    FORMULA_FIELD_NUMBER: _ClassVar[int]
    samples: _containers.RepeatedCompositeFieldContainer[Sample]
    formula: str
    def __init__(self, samples: _Optional[_Iterable[_Union[Sample, _Mapping]]] = ..., formula: _Optional[str] = ...) -> None: ...

class Word(_message.Message):
    __slots__ = ("text", "confidence", "polygon")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    CONFIDENCE_FIELD_NUMBER: _ClassVar[int]
    POLYGON_FIELD_NUMBER: _ClassVar[int]
    text: str
    confidence: float
    polygon: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, text: _Optional[str] = ..., confidence: _Optional[float] = ..., polygon: _Optional[_Iterable[float]] = ...) -> None: ...

class Region(_message.Message):
    __slots__ = ("polygon", "label")
    POLYGON_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    polygon: _containers.RepeatedScalarFieldContainer[float]
    label: str
    def __init__(self, polygon: _Optional[_Iterable[float]] = ..., label: _Optional[str] = ...) -> None: ...

class Score(_message.Message):
    __slots__ = ("value", "components", "words", "regions")
    class ComponentsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    VALUE_FIELD_NUMBER: _ClassVar[int]
    COMPONENTS_FIELD_NUMBER: _ClassVar[int]
    WORDS_FIELD_NUMBER: _ClassVar[int]
    REGIONS_FIELD_NUMBER: _ClassVar[int]
    value: float
    components: _containers.ScalarMap[str, float]
    words: _containers.RepeatedCompositeFieldContainer[Word]
    regions: _containers.RepeatedCompositeFieldContainer[Region]
    def __init__(self, value: _Optional[float] = ..., components: _Optional[_Mapping[str, float]] = ..., words: _Optional[_Iterable[_Union[Word, _Mapping]]] = ..., regions: _Optional[_Iterable[_Union[Region, _Mapping]]] = ...) -> None: ...

class ScoreError(_message.Message):
    __slots__ = ("code", "detail")
    CODE_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    code: ErrorCode
    detail: str
    def __init__(self, code: _Optional[_Union[ErrorCode, str]] = ..., detail: _Optional[str] = ...) -> None: ...

class Result(_message.Message):
    __slots__ = ("id", "score", "error")
    ID_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    id: str
    score: Score
    error: ScoreError
    def __init__(self, id: _Optional[str] = ..., score: _Optional[_Union[Score, _Mapping]] = ..., error: _Optional[_Union[ScoreError, _Mapping]] = ...) -> None: ...

class Model(_message.Message):
    __slots__ = ("engine", "name", "revision")
    ENGINE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    engine: str
    name: str
    revision: str
    def __init__(self, engine: _Optional[str] = ..., name: _Optional[str] = ..., revision: _Optional[str] = ...) -> None: ...

class ScoreResponse(_message.Message):
    __slots__ = ("reward", "model", "results")
    REWARD_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    reward: str
    model: Model
    results: _containers.RepeatedCompositeFieldContainer[Result]
    def __init__(self, reward: _Optional[str] = ..., model: _Optional[_Union[Model, _Mapping]] = ..., results: _Optional[_Iterable[_Union[Result, _Mapping]]] = ...) -> None: ...

class GetInfoRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetInfoResponse(_message.Message):
    __slots__ = ("reward", "model", "formulas", "max_samples", "max_image_bytes", "max_request_bytes")
    REWARD_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    FORMULAS_FIELD_NUMBER: _ClassVar[int]
    MAX_SAMPLES_FIELD_NUMBER: _ClassVar[int]
    MAX_IMAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_REQUEST_BYTES_FIELD_NUMBER: _ClassVar[int]
    reward: str
    model: Model
    formulas: _containers.RepeatedScalarFieldContainer[str]
    max_samples: int
    max_image_bytes: int
    max_request_bytes: int
    def __init__(self, reward: _Optional[str] = ..., model: _Optional[_Union[Model, _Mapping]] = ..., formulas: _Optional[_Iterable[str]] = ..., max_samples: _Optional[int] = ..., max_image_bytes: _Optional[int] = ..., max_request_bytes: _Optional[int] = ...) -> None: ...
