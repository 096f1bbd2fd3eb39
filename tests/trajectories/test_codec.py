from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.trajectory_builders import BITS, make_group, make_job, make_trajectory
from varl.trajectories.codec import decode_job, decode_trajectory, encode_job, encode_trajectory, job_of
from varl.trajectories.job_checks import optimised_scales
from varl.trajectories.problems import CodecError, Reason
from varl.trajectories.tokens import pack
from varl.v1 import rollout_pb2, trajectory_pb2

FINITE = st.floats(allow_nan=False, allow_infinity=False)
FINITE32 = st.floats(allow_nan=False, allow_infinity=False, width=32)
NAMES = st.text(min_size=1, max_size=20)
RUN_IDS = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,19}", fullmatch=True)
STAGES = st.sampled_from([rollout_pb2.STAGE_FULL, rollout_pb2.STAGE_PREFIX, rollout_pb2.STAGE_SUFFIX])


@st.composite
def jobs(draw: st.DrawFn) -> rollout_pb2.RolloutJob:
    stage = draw(STAGES)
    return make_job(
        run_id=draw(RUN_IDS),
        job_id=draw(NAMES),
        prompt=draw(NAMES),
        target_words=draw(st.lists(st.text(max_size=8), max_size=3)),
        stage=stage,
        split_scale=0 if stage == rollout_pb2.STAGE_FULL else draw(st.integers(1, 2)),
        group_size=draw(st.integers(1, 4)),
        continuations=draw(st.integers(1, 3)) if stage == rollout_pb2.STAGE_PREFIX else 1,
        seed=draw(st.integers(0, 2**64 - 1)),
        weight_version=draw(st.integers(0, 2**64 - 1)),
        rewards=draw(st.lists(NAMES, min_size=1, max_size=2, unique=True)),
        attempt=draw(st.integers(0, 2**32 - 1)),
    )


@st.composite
def groups(draw: st.DrawFn) -> trajectory_pb2.Trajectory:
    group = make_group(draw(jobs()))
    for candidate in group.candidates:
        size = len(candidate.log_probs)
        candidate.tokens = pack(draw(st.lists(st.integers(0, 2**BITS - 1), min_size=size, max_size=size)), BITS)
        candidate.log_probs[:] = draw(st.lists(FINITE32, min_size=size, max_size=size))
        for continuation in candidate.continuations:
            for name in group.job.rewards:
                continuation.rewards[name] = draw(FINITE)
            continuation.regions.add(
                reward=group.job.rewards[0], text=draw(st.text(max_size=5)), polygon=[0, 0, 9, 0, 9, 9]
            )
    return trajectory_pb2.Trajectory(group=group)


@given(jobs())
def test_job_round_trip(job: rollout_pb2.RolloutJob) -> None:
    assert decode_job(encode_job(job)) == job


@given(groups())
def test_trajectory_round_trip(trajectory: trajectory_pb2.Trajectory) -> None:
    data = encode_trajectory(trajectory)
    assert decode_trajectory(data) == trajectory
    assert encode_trajectory(decode_trajectory(data)) == data


@given(st.binary(max_size=200))
def test_any_bytes_give_a_valid_trajectory_or_a_codec_error(data: bytes) -> None:
    try:
        trajectory = decode_trajectory(data)
    except CodecError as error:
        assert error.detail
    else:
        assert trajectory.WhichOneof("outcome")


@given(groups(), st.data())
def test_a_cut_trajectory_is_rejected(trajectory: trajectory_pb2.Trajectory, data: st.DataObject) -> None:
    whole = encode_trajectory(trajectory)
    with pytest.raises(CodecError):
        decode_trajectory(whole[: data.draw(st.integers(0, len(whole) - 1))])


def test_failure_round_trip_keeps_the_job() -> None:
    job = make_job()
    failure = trajectory_pb2.GroupFailure(job=job, code=trajectory_pb2.FAILURE_CODE_SCORE_FAILED, detail="x")
    trajectory = decode_trajectory(encode_trajectory(trajectory_pb2.Trajectory(failure=failure)))
    assert trajectory.failure == failure
    assert job_of(trajectory) == job


def test_a_message_of_the_schema_before_is_known_by_its_schema() -> None:
    """Schema 1 had tokens as a packed list in fields that are bytes or reserved now."""
    trajectory = make_trajectory(make_job(schema=1))
    trajectory.group.candidates[0].tokens = b"\x01\x02\x03"
    with pytest.raises(CodecError, match="schema must be 2, got 1") as raised:
        decode_trajectory(trajectory.SerializeToString())
    assert raised.value.reason is Reason.SCHEMA


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"job_id": ""}, "job_id"),
        ({"prompt": ""}, "prompt"),
        ({"group_size": 0}, "group_size"),
        ({"group_size": 10**6}, "group_size"),
        ({"rewards": []}, "rewards"),
        ({"rewards": ["ocr", "ocr"]}, "rewards"),
        ({"stage": 0}, "stage"),
        ({"stage": 9}, "stage"),
        ({"split_scale": 1}, "split_scale"),
        ({"stage": rollout_pb2.STAGE_SUFFIX}, "split_scale"),
        ({"continuations": 0}, "continuations"),
        ({"continuations": 2}, "continuations"),
        ({"log_probs": 0}, "log_probs"),
        ({"metadata": {"k": "v" * 17_000}}, "metadata"),
    ],
)
def test_bad_job_is_rejected_both_ways_by_field(fields: dict[str, Any], field: str) -> None:
    job = make_job(**fields)
    with pytest.raises(CodecError) as raised:
        decode_job(job.SerializeToString())
    assert raised.value.detail.startswith(field)
    assert raised.value.message == job
    with pytest.raises(CodecError):
        encode_job(job)


def test_outcome_and_failure_code_are_required() -> None:
    with pytest.raises(CodecError, match="outcome"):
        decode_trajectory(b"")
    with pytest.raises(CodecError, match="code"):
        encode_trajectory(trajectory_pb2.Trajectory(failure=trajectory_pb2.GroupFailure(job=make_job())))


def test_optimised_scales_of_the_stages_cover_the_image_once() -> None:
    prefix = optimised_scales(make_job(stage=rollout_pb2.STAGE_PREFIX, split_scale=2), 5)
    suffix = optimised_scales(make_job(stage=rollout_pb2.STAGE_SUFFIX, split_scale=2), 5)
    assert [*prefix, *suffix] == list(optimised_scales(make_job(), 5)) == [0, 1, 2, 3, 4]


def test_a_group_is_no_bigger_than_its_arrays() -> None:
    job = make_job(group_size=16)
    grids = tuple((n, n) for n in (1, 2, 4, 8, 16, 32))
    size = len(encode_trajectory(trajectory_pb2.Trajectory(group=make_group(job, grids))))
    tokens = 16 * sum(h * w for h, w in grids)
    assert size < tokens * (4 + 2) + 16 * 64 + 512  # 4 bytes a log-prob, 2 a code of 16 bits, some for each candidate


def test_make_trajectory_is_valid() -> None:
    assert decode_trajectory(encode_trajectory(make_trajectory(make_job()))).group.job == make_job()
