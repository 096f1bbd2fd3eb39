"""Groups that are not what their job asked for, each refused by its field, when written and when read."""

from __future__ import annotations

import io
import math
from collections.abc import Callable

import pytest
from PIL import Image

from tests.support.trajectory_builders import make_group, make_job
from varl.trajectories.codec import decode_trajectory, encode_trajectory
from varl.trajectories.problems import CodecError, Reason
from varl.trajectories.tokens import pack
from varl.v1 import rollout_pb2, trajectory_pb2


def drop_token(group: trajectory_pb2.Group) -> None:
    group.candidates[0].tokens = group.candidates[0].tokens[:-2]


def drop_token_and_log_prob(group: trajectory_pb2.Group) -> None:
    drop_token(group)
    del group.candidates[0].log_probs[-1]


def drop_candidate(group: trajectory_pb2.Group) -> None:
    del group.candidates[-1]


def drop_continuation(group: trajectory_pb2.Group) -> None:
    del group.candidates[1].continuations[-1]


def drop_reward(group: trajectory_pb2.Group) -> None:
    del group.candidates[0].continuations[0].rewards["ocr"]


def nan_reward(group: trajectory_pb2.Group) -> None:
    group.candidates[0].continuations[1].rewards["ocr"] = math.nan


def infinite_log_prob(group: trajectory_pb2.Group) -> None:
    group.candidates[1].log_probs[0] = -math.inf


def appearance_missing(group: trajectory_pb2.Group) -> None:
    group.job.want_appearance = True


def appearance_unwanted(group: trajectory_pb2.Group) -> None:
    group.candidates[0].continuations[1].appearance["dark"] = 0.5


def nan_appearance(group: trajectory_pb2.Group) -> None:
    group.job.want_appearance = True
    for candidate in group.candidates:
        candidate.continuations[0].appearance["dark"] = math.nan


def empty_grid(group: trajectory_pb2.Group) -> None:
    group.grids[0].height = 0


def no_grids(group: trajectory_pb2.Group) -> None:
    del group.grids[:]


def split_beyond_the_grids(group: trajectory_pb2.Group) -> None:
    group.job.split_scale = 3


def unwanted_prefix(group: trajectory_pb2.Group) -> None:
    group.prefix_tokens = b"12"


def no_image_size(group: trajectory_pb2.Group) -> None:
    group.image_width = 0


def no_bits(group: trajectory_pb2.Group) -> None:
    group.bits_per_site = 0


def more_codes_than_bits_hold(group: trajectory_pb2.Group) -> None:
    group.codes = 2**16 + 1


def token_beyond_the_codebook(group: trajectory_pb2.Group) -> None:
    group.codes = 4  # the last of its tokens is 4


def token_beyond_its_bits(group: trajectory_pb2.Group) -> None:
    group.bits_per_site = 9
    group.candidates[1].tokens = pack([0, 1, 2, 3, 2**9], 16)


def odd_polygon(group: trajectory_pb2.Group) -> None:
    group.candidates[0].continuations[0].regions.add(reward="ocr", polygon=[0, 0, 9, 0, 9, 9, 0])


def edge_for_a_polygon(group: trajectory_pb2.Group) -> None:
    group.candidates[0].continuations[0].regions.add(reward="ocr", polygon=[0, 0, 9, 0])


def infinite_polygon(group: trajectory_pb2.Group) -> None:
    group.candidates[0].continuations[0].regions.add(reward="ocr", polygon=[0, 0, 9, 0, 9, math.inf])


def region_of_no_reward(group: trajectory_pb2.Group) -> None:
    group.candidates[0].continuations[0].regions.add(reward="else", polygon=[0, 0, 9, 0, 9, 9])


def more_regions_than_any_image(group: trajectory_pb2.Group) -> None:
    for _ in range(4097):
        group.candidates[0].continuations[0].regions.add(reward="ocr")


def image_missing(group: trajectory_pb2.Group) -> None:
    group.job.want_images = True


def image_unwanted(group: trajectory_pb2.Group) -> None:
    group.candidates[0].continuations[0].image = png(64, 64)


def image_that_is_none(group: trajectory_pb2.Group) -> None:
    give_image(group, b"no PNG")


def bomb(group: trajectory_pb2.Group) -> None:
    give_image(group, png(16_000, 16_000))


def image_of_another_size(group: trajectory_pb2.Group) -> None:
    give_image(group, png(64, 32))


def image_cut_short(group: trajectory_pb2.Group) -> None:
    give_image(group, png(64, 64)[:-40])


def give_image(group: trajectory_pb2.Group, image: bytes) -> None:
    group.job.want_images = True
    group.candidates[0].continuations[0].image = image


def png(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("spoil", "reason", "field"),
    [
        (drop_token, Reason.TOKENS, "candidates[0].tokens must be 5 sites of 2 bytes"),
        (drop_token_and_log_prob, Reason.TOKENS, "candidates[0].tokens must be 5"),
        (drop_candidate, Reason.CANDIDATES, "group.candidates"),
        (drop_continuation, Reason.CANDIDATES, "candidates[1].continuations"),
        (drop_reward, Reason.REWARDS, "continuations[0].rewards"),
        (nan_reward, Reason.REWARDS, "continuations[1].rewards"),
        (infinite_log_prob, Reason.LOG_PROBS, "candidates[1].log_probs"),
        (empty_grid, Reason.GRIDS, "group.grids"),
        (no_grids, Reason.GRIDS, "group.grids"),
        (split_beyond_the_grids, Reason.GRIDS, "split_scale"),
        (unwanted_prefix, Reason.TOKENS, "prefix_tokens"),
        (no_image_size, Reason.IMAGE, "image_width"),
        (no_bits, Reason.TOKENS, "group.bits_per_site"),
        (more_codes_than_bits_hold, Reason.TOKENS, "group.codes"),
        (token_beyond_the_codebook, Reason.TOKENS, "candidates[0].tokens must lie in 0..3, got 4"),
        (token_beyond_its_bits, Reason.TOKENS, "candidates[1].tokens must lie in 0..511, got 512"),
        (odd_polygon, Reason.REGIONS, "continuations[0].regions[0].polygon"),
        (edge_for_a_polygon, Reason.REGIONS, "continuations[0].regions[0].polygon"),
        (infinite_polygon, Reason.REGIONS, "continuations[0].regions[0].polygon must be finite"),
        (region_of_no_reward, Reason.REGIONS, "continuations[0].regions[0].reward"),
        (more_regions_than_any_image, Reason.REGIONS, "continuations[0].regions must be at most 4096"),
        (image_missing, Reason.IMAGE, "continuations[0].image must be a PNG"),
        (image_unwanted, Reason.IMAGE, "continuations[0].image must be empty"),
        (image_that_is_none, Reason.IMAGE, "continuations[0].image must be a PNG"),
        (bomb, Reason.IMAGE, "continuations[0].image"),
        (image_of_another_size, Reason.IMAGE, "continuations[0].image must be an RGB image of 64 x 64 pixels"),
        (image_cut_short, Reason.IMAGE, "continuations[0].image"),
        (appearance_missing, Reason.APPEARANCE, "continuations[0].appearance must be there"),
        (appearance_unwanted, Reason.APPEARANCE, "continuations[1].appearance must be there for first continuations"),
        (nan_appearance, Reason.APPEARANCE, "continuations[0].appearance must be finite"),
    ],
)
def test_bad_group_is_rejected_both_ways_by_field(
    spoil: Callable[[trajectory_pb2.Group], None], reason: Reason, field: str
) -> None:
    group = make_group(make_job(stage=rollout_pb2.STAGE_PREFIX, split_scale=2, continuations=2))
    spoil(group)
    trajectory = trajectory_pb2.Trajectory(group=group)
    with pytest.raises(CodecError) as raised:
        decode_trajectory(trajectory.SerializeToString())
    assert field in raised.value.detail and raised.value.reason is reason
    with pytest.raises(CodecError):
        encode_trajectory(trajectory)
