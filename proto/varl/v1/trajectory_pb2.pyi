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

class Continuation(_message.Message):
    __slots__ = ("rewards", "words", "image")
    class RewardsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    REWARDS_FIELD_NUMBER: _ClassVar[int]
    WORDS_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    rewards: _containers.ScalarMap[str, float]
    words: _containers.RepeatedCompositeFieldContainer[_reward_pb2.Word]
    image: bytes
    def __init__(self, rewards: _Optional[_Mapping[str, float]] = ..., words: _Optional[_Iterable[_Union[_reward_pb2.Word, _Mapping]]] = ..., image: _Optional[bytes] = ...) -> None: ...

class Candidate(_message.Message):
    __slots__ = ("tokens", "log_probs", "continuations")
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    LOG_PROBS_FIELD_NUMBER: _ClassVar[int]
    CONTINUATIONS_FIELD_NUMBER: _ClassVar[int]
    tokens: _containers.RepeatedScalarFieldContainer[int]
    log_probs: _containers.RepeatedScalarFieldContainer[float]
    continuations: _containers.RepeatedCompositeFieldContainer[Continuation]
    def __init__(self, tokens: _Optional[_Iterable[int]] = ..., log_probs: _Optional[_Iterable[float]] = ..., continuations: _Optional[_Iterable[_Union[Continuation, _Mapping]]] = ...) -> None: ...

class Grid(_message.Message):
    __slots__ = ("height", "width")
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    height: int
    width: int
    def __init__(self, height: _Optional[int] = ..., width: _Optional[int] = ...) -> None: ...

class Group(_message.Message):
    __slots__ = ("job", "grids", "prefix_tokens", "candidates", "models", "worker", "generate_seconds", "score_seconds", "absent_rewards", "image_size")
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
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    WORKER_FIELD_NUMBER: _ClassVar[int]
    GENERATE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    SCORE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    ABSENT_REWARDS_FIELD_NUMBER: _ClassVar[int]
    IMAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    job: _rollout_pb2.RolloutJob
    grids: _containers.RepeatedCompositeFieldContainer[Grid]
    prefix_tokens: _containers.RepeatedScalarFieldContainer[int]
    candidates: _containers.RepeatedCompositeFieldContainer[Candidate]
    models: _containers.MessageMap[str, _reward_pb2.Model]
    worker: str
    generate_seconds: float
    score_seconds: float
    absent_rewards: _containers.RepeatedScalarFieldContainer[str]
    image_size: int
    def __init__(self, job: _Optional[_Union[_rollout_pb2.RolloutJob, _Mapping]] = ..., grids: _Optional[_Iterable[_Union[Grid, _Mapping]]] = ..., prefix_tokens: _Optional[_Iterable[int]] = ..., candidates: _Optional[_Iterable[_Union[Candidate, _Mapping]]] = ..., models: _Optional[_Mapping[str, _reward_pb2.Model]] = ..., worker: _Optional[str] = ..., generate_seconds: _Optional[float] = ..., score_seconds: _Optional[float] = ..., absent_rewards: _Optional[_Iterable[str]] = ..., image_size: _Optional[int] = ...) -> None: ...

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
