"""Before an update: the order of prompts, jobs, and batches out of groups."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.trainer_rig import METHOD, make_recipe
from tests.support.trajectory_builders import make_group, make_job
from varl.policy.base import SamplingParams
from varl.trainer.recipe.sections import ObjectiveSettings
from varl.trainer.rollouts.jobs import PublishedWeights, sample_jobs, training_jobs
from varl.trainer.step.batch import to_batch
from varl.trajectories.prompt_files import load_prompts
from varl.trajectories.prompts import PromptSpec, draw_prompts
from varl.v1 import rollout_pb2, trajectory_pb2

SPECS = [PromptSpec(f"prompt {index}", (f"word{index}",)) for index in range(7)]


@settings(max_examples=30)
@given(st.integers(0, 2**31), st.integers(1, 12))
def test_prompts_are_drawn_without_replacement_in_epochs(seed: int, count: int) -> None:
    sampled = [spec for update in range(14) for spec in draw_prompts(SPECS, seed, update, count)]
    for start in range(0, len(sampled) - len(SPECS) + 1, len(SPECS)):
        assert set(sampled[start : start + len(SPECS)]) == set(SPECS)


def test_prompt_order_depends_on_the_seed_and_changes_between_epochs() -> None:
    orders = {seed: [draw_prompts(SPECS, seed, epoch, 7) for epoch in range(3)] for seed in (0, 1)}
    assert orders[0] != orders[1] and orders[0][0] != orders[0][1]


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        '{"target_words": ["x"]}',
        '{"prompt": "x", "words": []}',
        '{"prompt": "", "target_words": []}',
        '{"prompt": "x", "target_words": [""]}',
        '{"prompt": "x", "metadata": []}',
        '{"prompt": "x", "metadata": {"a": [[[[[[[[]]]]]]]]}}',
    ],
)
def test_a_bad_prompt_line_is_refused_with_its_number(tmp_path: Path, line: str) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "x", "target_words": ["y"]}\n\n' + line + "\n")
    with pytest.raises(ValueError, match=r"prompts\.jsonl:3: "):
        load_prompts(path)
    path.write_text("\n")
    with pytest.raises(ValueError, match="no prompts"):
        load_prompts(path)


def test_a_prompt_needs_neither_words_nor_metadata_and_hands_both_to_its_jobs(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "x"}\n{"prompt": "y", "metadata": {"tone": "dark", "count": 3}}\n')
    specs = load_prompts(path)
    assert specs == [PromptSpec("x"), PromptSpec("y", (), {"tone": "dark", "count": 3})]
    recipe = make_recipe(tmp_path, "run", objective=METHOD)
    jobs = sample_jobs(recipe, 0, specs, PublishedWeights(5, tmp_path / "v5.safetensors"))
    assert [dict(job.metadata) for job in jobs] == [{}, {"tone": "dark", "count": 3.0}]


def test_jobs_have_their_stage_sizes_and_a_seed_of_their_own(tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path, "run", objective=METHOD)
    weights = PublishedWeights(5, tmp_path / "v5.safetensors")
    by_update = [training_jobs(recipe, update, SPECS, weights) for update in range(8)]
    prefix, suffix = by_update[0][0], by_update[3][0]
    assert (prefix.stage, prefix.split_scale, prefix.continuations) == (rollout_pb2.STAGE_PREFIX, 3, 2)
    assert (suffix.stage, suffix.split_scale, suffix.continuations) == (rollout_pb2.STAGE_SUFFIX, 3, 1)
    seeds = [job.seed for jobs in by_update for job in jobs]
    assert len(set(seeds)) == len(seeds) == 24
    assert [job.seed for job in training_jobs(recipe, 4, SPECS, weights)] == [job.seed for job in by_update[4]]
    assert [job.seed for job in sample_jobs(recipe, 0, SPECS, weights)] == [
        job.seed for job in sample_jobs(recipe, 50, SPECS, weights)
    ]


@pytest.mark.parametrize(
    ("setting", "kind"), [("plain", rollout_pb2.LOG_PROBS_PLAIN), ("sampled", rollout_pb2.LOG_PROBS_SAMPLED)]
)
def test_jobs_say_which_log_probs_are_wanted_and_batches_follow(
    tmp_path: Path, setting: str, kind: rollout_pb2.LogProbs
) -> None:
    sections = {
        "objective": METHOD | {"log_probs": setting},
        "rollout": {"sampling": {"temperature": 1.5, "cfg": 2.0, "top_k": 3}},
    }
    recipe = make_recipe(tmp_path, "run", **sections)
    job = training_jobs(recipe, 0, SPECS, PublishedWeights(5, tmp_path / "v5.safetensors"))[0]
    assert job.log_probs == kind
    sampling = to_batch(
        make_group(make_job(sampling=job.sampling, log_probs=job.log_probs)), {"ocr": 1.0}, ObjectiveSettings()
    ).sampling
    assert sampling == (None if setting == "plain" else SamplingParams(temperature=1.5, cfg=2.0, top_k=3))


def _word(*polygon: float) -> trajectory_pb2.LocatedRegion:
    return trajectory_pb2.LocatedRegion(reward="ocr", text="x", confidence=1, polygon=polygon)


def test_a_prefix_batch_has_middle_values_and_the_union_of_its_masks() -> None:
    job = make_job(stage=rollout_pb2.STAGE_PREFIX, split_scale=2, continuations=2, rewards=["ocr", "hps"])
    group = make_group(job)  # grids 1x1, 2x2, 3x4 of a 64-pixel image
    first, second = group.candidates[0].continuations
    first.rewards["ocr"], first.rewards["hps"], second.rewards["ocr"], second.rewards["hps"] = 0.0, 5.0, 2.0, 5.0
    first.regions.append(_word(1, 1, 15, 1, 15, 20, 1, 20))  # top left
    second.regions.append(_word(49, 44, 63, 44, 63, 63, 49, 63))  # bottom right
    batch = to_batch(group, {"ocr": 1.0, "hps": 0.0}, ObjectiveSettings())
    assert batch.scales == range(2) and batch.steps == (1, 4) and batch.tokens.tolist() == [[0, 1, 2, 3, 4]] * 2
    assert float(batch.values[0]) == pytest.approx(1.434, abs=5e-4) and batch.rewards["hps"][0].tolist() == [5.0, 5.0]
    assert batch.mask[0].tolist() == [True, True, False, False, True]
    assert batch.mask[1].all()  # nothing was read in the other candidate's images


def test_masks_of_an_image_that_is_not_square_lie_where_its_regions_are() -> None:
    group = make_group(make_job(), grids=((1, 1), (2, 4)))
    group.image_height, group.image_width = 32, 64
    for candidate in group.candidates:
        candidate.continuations[0].regions.append(_word(50, 18, 62, 18, 62, 30, 50, 30))  # bottom right
    assert to_batch(group, {"ocr": 1.0}, ObjectiveSettings()).mask[0].tolist() == [True] + [False] * 7 + [True]


def test_regions_of_a_reward_that_is_not_trained_on_mask_nothing() -> None:
    group = make_group(make_job(rewards=["ocr", "hps"]))
    for candidate in group.candidates:
        candidate.continuations[0].regions.append(_word(49, 44, 63, 44, 63, 63, 49, 63))
    assert to_batch(group, {"ocr": 0.0, "hps": 1.0}, ObjectiveSettings()).mask.all()
    assert not to_batch(group, {"ocr": 0.5, "hps": 1.0}, ObjectiveSettings()).mask.all()


def test_a_suffix_batch_puts_the_shared_prefix_before_every_candidate() -> None:
    job = make_job(stage=rollout_pb2.STAGE_SUFFIX, split_scale=2)
    group = make_group(job)
    batch = to_batch(group, {"ocr": 2.0}, ObjectiveSettings(mask_propagation="off"))
    assert batch.scales == range(2, 3) and batch.steps == (12,)
    assert batch.tokens.tolist() == [[*range(5), *range(12)]] * 2
    assert batch.total.tolist() == [[1.0], [1.0]] and tuple(batch.mask.shape) == tuple(batch.reported.shape) == (2, 12)


def test_rewards_of_unlike_range_are_compared_on_one_scale_and_reported_as_they_are() -> None:
    group = make_group(make_job(rewards=["ocr", "hps"]))
    for candidate, (ocr, hps) in zip(group.candidates, ((1.0, -300.0), (2.0, 500.0)), strict=True):
        candidate.continuations[0].rewards["ocr"], candidate.continuations[0].rewards["hps"] = ocr, hps
    batch = to_batch(group, {"ocr": 1.0, "hps": 0.5}, ObjectiveSettings(combination="normalised_sum"))
    assert batch.values.tolist() == pytest.approx([-1.5, 1.5], abs=1e-5)
    assert batch.total.flatten().tolist() == [-149.0, 252.0] and batch.rewards["hps"].flatten().tolist() == [
        -300.0,
        500.0,
    ]
