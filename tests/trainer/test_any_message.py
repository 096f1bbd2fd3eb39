"""Whatever the codec lets through, the trainer can use.

Valid messages of any content, from their bytes to an update.
"""

from __future__ import annotations

import io

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import varl.policy.nextflow
from tests.support.trajectory_builders import make_job
from varl.evaluation.sample_grids import sample_grid
from varl.policy.base import cells, layout_of
from varl.trainer.recipe.sections import GuardSettings, ObjectiveSettings, OptimizerSettings
from varl.trainer.step.batch import to_batch
from varl.trainer.step.guards import GuardError
from varl.trainer.step.metrics import reward_metrics
from varl.trainer.step.update import UpdateOutcome, Updater
from varl.trajectories.codec import decode_trajectory
from varl.trajectories.job_checks import continuations_of, optimised_scales
from varl.trajectories.prompts import PromptSpec
from varl.trajectories.tokens import pack
from varl.v1 import rollout_pb2, trajectory_pb2

POLICY, REFERENCE = varl.policy.nextflow.build_random(0), varl.policy.nextflow.build_random(1)
COUNTS, LAYOUT = cells(POLICY.grids), layout_of(POLICY)
STAGES = (rollout_pb2.STAGE_FULL, rollout_pb2.STAGE_PREFIX, rollout_pb2.STAGE_SUFFIX)
ANY = st.floats(allow_nan=False, allow_infinity=False)
ANY32 = st.floats(allow_nan=False, allow_infinity=False, width=32)
POLYGONS = st.lists(ANY32, min_size=3, max_size=6).map(lambda numbers: numbers + numbers[::-1]) | st.just(list[float]())


def png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (LAYOUT.width, LAYOUT.height), "red").save(buffer, "PNG")
    return buffer.getvalue()


IMAGE = png()


@st.composite
def jobs(draw: st.DrawFn) -> rollout_pb2.RolloutJob:
    stage = draw(st.sampled_from(STAGES))
    return make_job(
        prompt=draw(st.text(min_size=1, max_size=9)),
        stage=stage,
        split_scale=0 if stage == rollout_pb2.STAGE_FULL else draw(st.integers(1, len(COUNTS) - 1)),
        group_size=draw(st.integers(1, 3)),
        continuations=draw(st.integers(1, 2)) if stage == rollout_pb2.STAGE_PREFIX else 1,
        weight_version=draw(st.integers(0, 2**64 - 1)),
        want_images=draw(st.booleans()),
        want_appearance=draw(st.booleans()),
        optional_rewards=draw(st.sampled_from([[], ["other"]])),
    )


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    job = draw(jobs())
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shared = sum(COUNTS[: job.split_scale]) if job.stage == rollout_pb2.STAGE_SUFFIX else 0
    group = trajectory_pb2.Group(
        job=job,
        grids=[trajectory_pb2.Grid(height=height, width=width) for height, width in POLICY.grids],
        bits_per_site=LAYOUT.bits_per_site,
        codes=LAYOUT.codes,
        image_height=LAYOUT.height,
        image_width=LAYOUT.width,
        prefix_tokens=pack(rng.integers(0, LAYOUT.codes, shared), LAYOUT.bits_per_site),
        absent_rewards=draw(st.sampled_from([[], list(job.optional_rewards)])),
    )
    sites = sum(COUNTS[scale] for scale in optimised_scales(job, len(COUNTS)))
    names = [name for name in (*job.rewards, *job.optional_rewards) if name not in group.absent_rewards]
    for _ in range(job.group_size):
        reported = draw(st.sampled_from([0.0, -3.0]) | ANY32)
        tokens = pack(rng.integers(0, LAYOUT.codes, sites), LAYOUT.bits_per_site)
        candidate = group.candidates.add(tokens=tokens, log_probs=[reported] * sites)
        for index in range(continuations_of(job)):
            image = candidate.continuations.add(image=IMAGE if job.want_images and index == 0 else b"")
            if job.want_appearance and index == 0:
                image.appearance["dark"] = draw(st.floats(0, 1))
            for name in names:
                image.rewards[name] = draw(ANY)
            for polygon in draw(st.lists(POLYGONS, max_size=2)):
                image.regions.add(reward=names[0], polygon=polygon, confidence=draw(st.floats(0, 1, width=32)))
    return trajectory_pb2.Trajectory(group=group).SerializeToString()


@given(messages(), st.sampled_from(["sum", "normalised_sum"]), st.sampled_from(["chained", "direct", "off"]))
@settings(max_examples=25)
def test_a_valid_message_ends_in_an_outcome_or_a_named_guard(data: bytes, combination: str, masks: str) -> None:
    group = decode_trajectory(data).group
    objective = ObjectiveSettings.model_validate({"combination": combination, "mask_propagation": masks})
    batch = to_batch(group, {"ocr": 1.0, "other": 0.5}, objective, 7 - group.job.weight_version)
    assert batch.tokens.shape[1] == sum(COUNTS[: batch.scales.stop])
    try:
        outcome, metrics = updater(objective).update([batch], 0, by_scale=False)
    except GuardError as error:
        assert error.metrics
    else:
        assert outcome in UpdateOutcome and isinstance(metrics, dict)
    assert set(reward_metrics([batch])) >= {"reward/ocr", "reward/total"}
    assert sample_grid([PromptSpec(group.job.prompt, ())], {0: group} if group.job.want_images else {})


def updater(objective: ObjectiveSettings) -> Updater:
    POLICY.module.load_state_dict(REFERENCE.module.state_dict())
    return Updater(POLICY, REFERENCE, objective, OptimizerSettings(lr=1e-3), GuardSettings(non_finite="stop"))
