from varl.v1 import reward_pb2 as _reward_pb2
from varl.v1 import rollout_pb2 as _rollout_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class FailureCode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FAILURE_CODE_UNSPECIFIED: _ClassVar[FailureCode]
    FAILURE_CODE_SCORE_FAILED: _ClassVar[FailureCode]
    FAILURE_CODE_REWARD_UNAVAILABLE: _ClassVar[FailureCode]
    FAILURE_CODE_WEIGHTS_MISSING: _ClassVar[FailureCode]
    FAILURE_CODE_BAD_JOB: _ClassVar[FailureCode]
    FAILURE_CODE_DEAD_LETTER: _ClassVar[FailureCode]
FAILURE_CODE_UNSPECIFIED: FailureCode
FAILURE_CODE_SCORE_FAILED: FailureCode
FAILURE_CODE_REWARD_UNAVAILABLE: FailureCode
FAILURE_CODE_WEIGHTS_MISSING: FailureCode
FAILURE_CODE_BAD_JOB: FailureCode
FAILURE_CODE_DEAD_LETTER: FailureCode

class LocatedRegion(_message.Message):
    __slots__ = ("reward", "polygon", "text", "confidence")
    REWARD_FIELD_NUMBER: _ClassVar[int]
    POLYGON_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    CONFIDENCE_FIELD_NUMBER: _ClassVar[int]
    reward: str
    polygon: _containers.RepeatedScalarFieldContainer[float]
    text: str
    confidence: float
    def __init__(self, reward: _Optional[str] = ..., polygon: _Optional[_Iterable[float]] = ..., text: _Optional[str] = ..., confidence: _Optional[float] = ...) -> None: ...

class Continuation(_message.Message):
    __slots__ = ("rewards", "regions", "image", "appearance")
    class RewardsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    class AppearanceEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    REWARDS_FIELD_NUMBER: _ClassVar[int]
    REGIONS_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    APPEARANCE_FIELD_NUMBER: _ClassVar[int]
    rewards: _containers.ScalarMap[str, float]
    regions: _containers.RepeatedCompositeFieldContainer[LocatedRegion]
    image: bytes
    appearance: _containers.ScalarMap[str, float]
    def __init__(self, rewards: _Optional[_Mapping[str, float]] = ..., regions: _Optional[_Iterable[_Union[LocatedRegion, _Mapping]]] = ..., image: _Optional[bytes] = ..., appearance: _Optional[_Mapping[str, float]] = ...) -> None: ...

class Candidate(_message.Message):
    __slots__ = ("tokens", "log_probs", "continuations")
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    LOG_PROBS_FIELD_NUMBER: _ClassVar[int]
    CONTINUATIONS_FIELD_NUMBER: _ClassVar[int]
    tokens: bytes
    log_probs: _containers.RepeatedScalarFieldContainer[float]
    continuations: _containers.RepeatedCompositeFieldContainer[Continuation]
    def __init__(self, tokens: _Optional[bytes] = ..., log_probs: _Optional[_Iterable[float]] = ..., continuations: _Optional[_Iterable[_Union[Continuation, _Mapping]]] = ...) -> None: ...

class Grid(_message.Message):
    __slots__ = ("height", "width")
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    height: int
    width: int
    def __init__(self, height: _Optional[int] = ..., width: _Optional[int] = ...) -> None: ...

class Group(_message.Message):
    __slots__ = ("job", "grids", "prefix_tokens", "bits_per_site", "candidates", "models", "worker", "generate_seconds", "score_seconds", "absent_rewards", "image_height", "image_width", "codes")
    class ModelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: _reward_pb2.Model
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[_reward_pb2.Model, _Mapping]] = ...) -> None: ...
    JOB_FIELD_NUMBER: _ClassVar[int]
    GRIDS_FIELD_NUMBER: _ClassVar[int]
    PREFIX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    BITS_PER_SITE_FIELD_NUMBER: _ClassVar[int]
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    WORKER_FIELD_NUMBER: _ClassVar[int]
    GENERATE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    SCORE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    ABSENT_REWARDS_FIELD_NUMBER: _ClassVar[int]
    IMAGE_HEIGHT_FIELD_NUMBER: _ClassVar[int]
    IMAGE_WIDTH_FIELD_NUMBER: _ClassVar[int]
    CODES_FIELD_NUMBER: _ClassVar[int]
    job: _rollout_pb2.RolloutJob
    grids: _containers.RepeatedCompositeFieldContainer[Grid]
    prefix_tokens: bytes
    bits_per_site: int
    candidates: _containers.RepeatedCompositeFieldContainer[Candidate]
    models: _containers.MessageMap[str, _reward_pb2.Model]
    worker: str
    generate_seconds: float
    score_seconds: float
    absent_rewards: _containers.RepeatedScalarFieldContainer[str]
    image_height: int
    image_width: int
    codes: int
    def __init__(self, job: _Optional[_Union[_rollout_pb2.RolloutJob, _Mapping]] = ..., grids: _Optional[_Iterable[_Union[Grid, _Mapping]]] = ..., prefix_tokens: _Optional[bytes] = ..., bits_per_site: _Optional[int] = ..., candidates: _Optional[_Iterable[_Union[Candidate, _Mapping]]] = ..., models: _Optional[_Mapping[str, _reward_pb2.Model]] = ..., worker: _Optional[str] = ..., generate_seconds: _Optional[float] = ..., score_seconds: _Optional[float] = ..., absent_rewards: _Optional[_Iterable[str]] = ..., image_height: _Optional[int] = ..., image_width: _Optional[int] = ..., codes: _Optional[int] = ...) -> None: ...

class GroupFailure(_message.Message):
    __slots__ = ("job", "code", "detail", "worker")
    JOB_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    WORKER_FIELD_NUMBER: _ClassVar[int]
    job: _rollout_pb2.RolloutJob
    code: FailureCode
    detail: str
    worker: str
    def __init__(self, job: _Optional[_Union[_rollout_pb2.RolloutJob, _Mapping]] = ..., code: _Optional[_Union[FailureCode, str]] = ..., detail: _Optional[str] = ..., worker: _Optional[str] = ...) -> None: ...

class Trajectory(_message.Message):
    __slots__ = ("group", "failure")
    GROUP_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    group: Group
    failure: GroupFailure
    def __init__(self, group: _Optional[_Union[Group, _Mapping]] = ..., failure: _Optional[_Union[GroupFailure, _Mapping]] = ...) -> None: ...
