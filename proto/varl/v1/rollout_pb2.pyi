from google.protobuf import struct_pb2 as _struct_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Stage(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STAGE_UNSPECIFIED: _ClassVar[Stage]
    STAGE_FULL: _ClassVar[Stage]
    STAGE_PREFIX: _ClassVar[Stage]
    STAGE_SUFFIX: _ClassVar[Stage]

class LogProbs(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    LOG_PROBS_UNSPECIFIED: _ClassVar[LogProbs]
    LOG_PROBS_PLAIN: _ClassVar[LogProbs]
    LOG_PROBS_SAMPLED: _ClassVar[LogProbs]
STAGE_UNSPECIFIED: Stage
STAGE_FULL: Stage
STAGE_PREFIX: Stage
STAGE_SUFFIX: Stage
LOG_PROBS_UNSPECIFIED: LogProbs
LOG_PROBS_PLAIN: LogProbs
LOG_PROBS_SAMPLED: LogProbs

class Sampling(_message.Message):
    __slots__ = ("temperature", "top_k", "top_p", "cfg", "cfg_constant")
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    TOP_P_FIELD_NUMBER: _ClassVar[int]
    CFG_FIELD_NUMBER: _ClassVar[int]
    CFG_CONSTANT_FIELD_NUMBER: _ClassVar[int]
    temperature: float
    top_k: int
    top_p: float
    cfg: float
    cfg_constant: bool
    def __init__(self, temperature: _Optional[float] = ..., top_k: _Optional[int] = ..., top_p: _Optional[float] = ..., cfg: _Optional[float] = ..., cfg_constant: _Optional[bool] = ...) -> None: ...

class RolloutJob(_message.Message):
    __slots__ = ("run_id", "job_id", "update", "group", "prompt", "target_words", "stage", "split_scale", "group_size", "continuations", "seed", "weight_version", "weight_path", "sampling", "rewards", "attempt", "schema", "optional_rewards", "metadata", "log_probs", "want_images", "want_appearance")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    UPDATE_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    TARGET_WORDS_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    SPLIT_SCALE_FIELD_NUMBER: _ClassVar[int]
    GROUP_SIZE_FIELD_NUMBER: _ClassVar[int]
    CONTINUATIONS_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_VERSION_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_PATH_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    REWARDS_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    SCHEMA_FIELD_NUMBER: _ClassVar[int]
    OPTIONAL_REWARDS_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    LOG_PROBS_FIELD_NUMBER: _ClassVar[int]
    WANT_IMAGES_FIELD_NUMBER: _ClassVar[int]
    WANT_APPEARANCE_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    job_id: str
    update: int
    group: int
    prompt: str
    target_words: _containers.RepeatedScalarFieldContainer[str]
    stage: Stage
    split_scale: int
    group_size: int
    continuations: int
    seed: int
    weight_version: int
    weight_path: str
    sampling: Sampling
    rewards: _containers.RepeatedScalarFieldContainer[str]
    attempt: int
    schema: int
    optional_rewards: _containers.RepeatedScalarFieldContainer[str]
    metadata: _struct_pb2.Struct
    log_probs: LogProbs
    want_images: bool
    want_appearance: bool
    def __init__(self, run_id: _Optional[str] = ..., job_id: _Optional[str] = ..., update: _Optional[int] = ..., group: _Optional[int] = ..., prompt: _Optional[str] = ..., target_words: _Optional[_Iterable[str]] = ..., stage: _Optional[_Union[Stage, str]] = ..., split_scale: _Optional[int] = ..., group_size: _Optional[int] = ..., continuations: _Optional[int] = ..., seed: _Optional[int] = ..., weight_version: _Optional[int] = ..., weight_path: _Optional[str] = ..., sampling: _Optional[_Union[Sampling, _Mapping]] = ..., rewards: _Optional[_Iterable[str]] = ..., attempt: _Optional[int] = ..., schema: _Optional[int] = ..., optional_rewards: _Optional[_Iterable[str]] = ..., metadata: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., log_probs: _Optional[_Union[LogProbs, str]] = ..., want_images: _Optional[bool] = ..., want_appearance: _Optional[bool] = ...) -> None: ...

class GenerateRequest(_message.Message):
    __slots__ = ("prompt", "count", "seed", "sampling")
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    prompt: str
    count: int
    seed: int
    sampling: Sampling
    def __init__(self, prompt: _Optional[str] = ..., count: _Optional[int] = ..., seed: _Optional[int] = ..., sampling: _Optional[_Union[Sampling, _Mapping]] = ...) -> None: ...

class GenerateResponse(_message.Message):
    __slots__ = ("images", "weight_version")
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_VERSION_FIELD_NUMBER: _ClassVar[int]
    images: _containers.RepeatedScalarFieldContainer[bytes]
    weight_version: int
    def __init__(self, images: _Optional[_Iterable[bytes]] = ..., weight_version: _Optional[int] = ...) -> None: ...
