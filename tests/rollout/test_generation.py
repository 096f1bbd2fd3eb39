from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.support.trajectory_builders import make_job
from varl.policy.base import SamplingParams, cells
from varl.policy.nextflow import NextFlowPolicy, build_random
from varl.services.rollout.generation import ImagesStep, Limits, TokensStep, generate, generate_images
from varl.services.rollout.model import ModelThread, Weights
from varl.services.rollout.seeds import WHOLE, candidate_seed
from varl.trajectories.sampling import trained_sampling
from varl.v1 import rollout_pb2

WIDE = Limits(sequences=64, decode=64)
PREFIX, SUFFIX, FULL = rollout_pb2.STAGE_PREFIX, rollout_pb2.STAGE_SUFFIX, rollout_pb2.STAGE_FULL


@pytest.fixture(scope="module")
def policy() -> NextFlowPolicy:
    return build_random()


def stage_job(
    stage: rollout_pb2.Stage, group_size: int = 3, continuations: int = 1, seed: int = 7
) -> rollout_pb2.RolloutJob:
    split = 0 if stage == FULL else 3
    return make_job(stage=stage, split_scale=split, group_size=group_size, continuations=continuations, seed=seed)


def run(
    policy: NextFlowPolicy, job: rollout_pb2.RolloutJob, limits: Limits = WIDE
) -> tuple[TokensStep, dict[tuple[int, int], bytes]]:
    """All steps of a job as one: its tokens, and its images by place."""
    steps = list(generate(policy, job, limits))
    drawn = [step for step in steps if isinstance(step, TokensStep)]
    images = {
        place: px.tobytes()
        for step in steps
        if isinstance(step, ImagesStep)
        for place, px in zip(step.places, step.pixels, strict=True)
    }
    tokens = [row for step in drawn for row in step.tokens]
    return TokensStep(drawn[0].prefix, tokens, [row for step in drawn for row in step.log_probs]), images


def whole_images(policy: NextFlowPolicy, rows: Sequence[Sequence[int]]) -> list[bytes]:
    return [pixels.tobytes() for pixels in policy.decode(torch.tensor(rows))]


def rounding_apart(a: bytes, b: bytes) -> bool:
    """Decoded in batches of other sizes, the same tokens give pixels that differ by rounding at most."""
    return int(np.abs(np.frombuffer(a, np.uint8).astype(int) - np.frombuffer(b, np.uint8)).max()) <= 1


@given(
    st.lists(
        st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 1023), st.integers(0, 64)),
        min_size=2,
        max_size=20,
        unique=True,
    )
)
def test_seeds_differ_and_fit_64_bits(keys: list[tuple[int, int, int]]) -> None:
    seeds = [candidate_seed(*key) for key in keys]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**64 for seed in seeds)


def splitmix64(state: int) -> int:
    """First output of the published generator started at ``state``."""
    z = np.uint64((state + 0x9E3779B97F4A7C15) % 2**64)
    with np.errstate(over="ignore"):
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return int(z ^ (z >> np.uint64(31)))


def test_seeds_never_change() -> None:
    assert splitmix64(0) == 0xE220A8397B1DCDAF
    assert candidate_seed(0, 0) == splitmix64(splitmix64(0))
    assert candidate_seed(2**64 - 1, 0, WHOLE) == splitmix64(splitmix64(2**64 - 1))
    assert candidate_seed(7, 1, 2) == splitmix64(splitmix64(7 + 0x9E3779B97F4A7C15) + 2 * 0x9E3779B97F4A7C15)


def test_full_images_are_decoded_from_the_tokens(policy: NextFlowPolicy) -> None:
    drawn, images = run(policy, stage_job(FULL))
    assert [len(row) for row in drawn.tokens] == [sum(cells(policy.grids))] * 3
    assert list(images) == [(0, 0), (1, 0), (2, 0)]
    assert list(images.values()) == whole_images(policy, drawn.tokens)
    assert len(set(images.values())) == 3


def test_prefix_candidates_do_not_depend_on_how_often_they_are_continued(policy: NextFlowPolicy) -> None:
    once, first = run(policy, stage_job(PREFIX, continuations=1))
    drawn, images = run(policy, stage_job(PREFIX, continuations=3))
    assert drawn == once
    assert [len(row) for row in drawn.tokens] == [sum(cells(policy.grids[:3]))] * 3
    assert list(images) == [(i, k) for i in range(3) for k in range(3)]
    assert all(rounding_apart(images[i, 0], first[i, 0]) for i in range(3))
    assert len(set(images.values())) == 9


def test_suffix_candidates_share_one_prefix(policy: NextFlowPolicy) -> None:
    drawn, images = run(policy, stage_job(SUFFIX))
    assert len(drawn.prefix) == sum(cells(policy.grids[:3]))
    assert [len(row) for row in drawn.tokens] == [sum(cells(policy.grids[3:]))] * 3
    assert list(images.values()) == whole_images(policy, [drawn.prefix + row for row in drawn.tokens])
    assert len(set(map(tuple, drawn.tokens))) == 3


@pytest.mark.parametrize(
    "kind", [rollout_pb2.LOG_PROBS_UNSPECIFIED, rollout_pb2.LOG_PROBS_PLAIN, rollout_pb2.LOG_PROBS_SAMPLED]
)
@pytest.mark.parametrize("stage", [FULL, PREFIX, SUFFIX])
def test_log_probs_are_those_of_the_teacher_forced_pass(
    policy: NextFlowPolicy, stage: rollout_pb2.Stage, kind: rollout_pb2.LogProbs
) -> None:
    job = stage_job(stage, continuations=2 if stage == PREFIX else 1)
    job.log_probs, job.sampling.temperature, job.sampling.cfg = kind, 1.6, 2.0
    drawn, _ = run(policy, job)
    tokens = torch.tensor([drawn.prefix + row for row in drawn.tokens])
    with torch.no_grad():
        scored = policy.distribution(job.prompt, tokens, 3 if stage == SUFFIX else 0, trained_sampling(job))
        expected = scored.log_prob(torch.tensor(drawn.tokens))
    assert torch.allclose(torch.tensor(drawn.log_probs), expected, atol=1e-4)


@pytest.mark.parametrize("stage", [FULL, PREFIX, SUFFIX])
@pytest.mark.parametrize("limits", [Limits(1, 1), Limits(2, 3), Limits(5, 2)])
def test_batch_limits_bound_the_batches_and_change_nothing_else(
    policy: NextFlowPolicy, stage: rollout_pb2.Stage, limits: Limits
) -> None:
    job = stage_job(stage, group_size=5, continuations=2 if stage == PREFIX else 1)
    small, small_images = run(policy, job, limits)
    wide, wide_images = run(policy, job)
    assert (small.prefix, small.tokens) == (wide.prefix, wide.tokens)
    assert torch.allclose(torch.tensor(small.log_probs), torch.tensor(wide.log_probs), atol=1e-5)
    assert list(small_images) == list(wide_images)
    assert all(
        len(step.places) <= limits.decode for step in generate(policy, job, limits) if isinstance(step, ImagesStep)
    )


@pytest.mark.parametrize("stage", [FULL, PREFIX, SUFFIX])
def test_batches_of_a_fixed_size_give_the_same_group(
    policy: NextFlowPolicy, stage: rollout_pb2.Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies = 2 if stage == PREFIX else 1
    wide, images = run(policy, stage_job(stage, group_size=5, continuations=copies))
    sizes, sample = list[int](), policy.sample

    def seen(state: Any, to_scale: int, seeds: Sequence[int], *more: Any) -> Any:  # noqa: ANN401
        sizes.append(len(seeds))
        return sample(state, to_scale, seeds, *more)

    monkeypatch.setattr(policy, "sample", seen)
    for group in (5, 3):
        sizes.clear()
        limits = Limits(sequences=4, decode=8, fixed=True)
        found, some = run(policy, stage_job(stage, group_size=group, continuations=copies), limits)
        assert found.tokens == wide.tokens[:group] and list(some) == list(images)[: group * copies]
        # A suffix group's one prefix is a batch of its own; continued prefixes are half as many as their images.
        assert set(sizes) == {FULL: {4}, PREFIX: {2, 4}, SUFFIX: {1, 4}}[stage]


def test_another_seed_gives_another_group(policy: NextFlowPolicy) -> None:
    assert run(policy, stage_job(PREFIX, seed=7))[0].tokens != run(policy, stage_job(PREFIX, seed=8))[0].tokens


def test_direct_images_equal_those_of_a_job_with_the_same_seed(policy: NextFlowPolicy) -> None:
    job = stage_job(FULL)
    limits = Limits(2, 1)
    steps = generate_images(policy, job.prompt, job.seed, 3, SamplingParams(), limits)
    assert [pixels.tobytes() for step in steps for pixels in step.pixels] == list(run(policy, job, limits)[1].values())


@pytest.mark.parametrize(
    ("fields", "detail"),
    [
        ({"stage": PREFIX, "split_scale": 5}, "split_scale must be in 1..4"),
        ({"sampling": rollout_pb2.Sampling(temperature=0, top_p=1)}, "temperature"),
        ({"sampling": rollout_pb2.Sampling(temperature=1)}, "top_p"),
    ],
)
def test_job_that_the_policy_cannot_do_is_a_value_error(
    policy: NextFlowPolicy, fields: dict[str, Any], detail: str
) -> None:
    with pytest.raises(ValueError, match=detail):
        next(generate(policy, make_job(**fields), WIDE))


def test_weights_are_read_when_the_version_or_the_file_changes(tmp_path: Path) -> None:
    policy, other = build_random(0), build_random(0)
    policy.save(tmp_path)
    with torch.no_grad():
        for parameter in other.module.parameters():
            parameter.mul_(-1)
    file = tmp_path / "v1.safetensors"
    other.save_weights(str(file))
    weights = Weights(policy, tmp_path / "policy.safetensors", tmp_path / "cache")
    base = run(policy, stage_job(FULL))[0].tokens
    changed = run(other, stage_job(FULL))[0].tokens
    assert changed != base
    assert weights.use(1, str(file)) is None
    assert (weights.version, run(policy, stage_job(FULL))[0].tokens) == (1, changed)
    assert weights.use(0, "") is None
    assert (weights.version, run(policy, stage_job(FULL))[0].tokens) == (0, base)
    weights.use(1, str(file))
    build_random(0).save_weights(str(file))  # a resumed run writes version 1 again
    assert weights.use(1, str(file)) is None
    assert run(policy, stage_job(FULL))[0].tokens == base


def test_weights_that_cannot_be_read_are_a_reason_not_a_crash(tmp_path: Path) -> None:
    policy = build_random(0)
    policy.save(tmp_path)
    weights = Weights(policy, tmp_path / "policy.safetensors", tmp_path / "cache")
    missing = weights.use(3, str(tmp_path / "v3.safetensors"))
    assert missing is not None and "v3.safetensors" in missing and weights.loaded
    (tmp_path / "v4.safetensors").write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00not json")
    broken = weights.use(4, str(tmp_path / "v4.safetensors"))
    assert broken is not None and not weights.loaded
    wrong = weights.use(5, str(tmp_path / "tokenizer.safetensors"))
    assert wrong is not None and "does not fit" in wrong
    assert weights.use(0, "") is None and weights.loaded


async def test_model_work_runs_on_one_thread_of_its_own() -> None:
    thread = ModelThread(threads=1)
    names = [await thread.call(lambda: (threading.current_thread().name, torch.get_num_threads())) for _ in range(3)]
    assert len(set(names)) == 1 and names[0] != (threading.current_thread().name, 1) and names[0][1] == 1
    assert [step async for step in thread.steps(iter(range(1, 4)))] == [1, 2, 3]
    thread.close()
