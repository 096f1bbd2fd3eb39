"""What makes a group trainable.

A group without a problem here goes through the trainer without an error that has no name.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from varl.trajectories.job_checks import continuations_of, job_problems, optimised_scales
from varl.trajectories.problems import MAX_PIXELS, MAX_REGIONS, Problem, Reason, png_problem, polygon_problem
from varl.trajectories.tokens import MAX_BITS, site_bytes, unpack
from varl.v1 import rollout_pb2, trajectory_pb2

MAX_CELLS = 2**20  # of all grids of an image


@dataclass(frozen=True)
class _Expected:
    """What a group's job, grids and token kind ask of each of its candidates."""

    sites: int
    bits: int
    codes: int
    continuations: int
    rewards: frozenset[str]
    height: int
    width: int
    images: bool  # every first continuation has its image, no other
    appearance: bool  # and its appearance


def group_problems(group: trajectory_pb2.Group) -> Iterator[Problem]:
    """The problems of a group, those that later checks rely on first."""
    yield from (problem.within("group.job") for problem in job_problems(group.job))
    yield from (problem.within("group") for problem in _frame_problems(group))
    counts = [grid.height * grid.width for grid in group.grids]
    shared = sum(counts[: group.job.split_scale]) if group.job.stage == rollout_pb2.STAGE_SUFFIX else 0
    yield from _token_problems("group.prefix_tokens", group.prefix_tokens, shared, group.bits_per_site, group.codes)
    expected = _expected(group, counts)
    for index, candidate in enumerate(group.candidates):
        yield from (
            problem.within(f"group.candidates[{index}]") for problem in _candidate_problems(candidate, expected)
        )


def _expected(group: trajectory_pb2.Group, counts: Sequence[int]) -> _Expected:
    return _Expected(
        sites=sum(counts[scale] for scale in optimised_scales(group.job, len(counts))),
        bits=group.bits_per_site,
        codes=group.codes,
        continuations=continuations_of(group.job),
        rewards=frozenset({*group.job.rewards, *group.job.optional_rewards} - set(group.absent_rewards)),
        height=group.image_height,
        width=group.image_width,
        images=group.job.want_images,
        appearance=group.job.want_appearance,
    )


def _frame_problems(group: trajectory_pb2.Group) -> Iterator[Problem]:
    counts = [grid.height * grid.width for grid in group.grids]
    if not counts or not all(counts):
        yield Problem(Reason.GRIDS, "grids must hold one or more grids of positive height and width")
    if sum(counts) > MAX_CELLS:
        yield Problem(Reason.GRIDS, f"grids must have at most {MAX_CELLS} cells in all, got {sum(counts)}")
    if group.job.split_scale >= max(len(counts), 1):
        yield Problem(
            Reason.GRIDS,
            f"job.split_scale must be below the {len(counts)} scales of grids, got {group.job.split_scale}",
        )
    if not 1 <= group.bits_per_site <= MAX_BITS:
        yield Problem(Reason.TOKENS, f"bits_per_site must be in 1..{MAX_BITS}, got {group.bits_per_site}")
    if group.codes and (group.codes - 1).bit_length() > group.bits_per_site:
        yield Problem(Reason.TOKENS, f"codes must fit into {group.bits_per_site} bits, got {group.codes}")
    if not 1 <= group.image_height * group.image_width <= MAX_PIXELS:
        size = f"{group.image_height} x {group.image_width}"
        yield Problem(Reason.IMAGE, f"image_height and image_width must give 1..{MAX_PIXELS} pixels, got {size}")
    if not set(group.absent_rewards) <= set(group.job.optional_rewards):
        yield Problem(
            Reason.REWARDS, f"absent_rewards must be optional_rewards of the job, got {list(group.absent_rewards)}"
        )
    if len(group.candidates) != group.job.group_size:
        yield Problem(
            Reason.CANDIDATES, f"candidates must hold {group.job.group_size} candidates, got {len(group.candidates)}"
        )


def _token_problems(field: str, data: bytes, sites: int, bits: int, codes: int) -> Iterator[Problem]:
    if len(data) != sites * site_bytes(bits):
        found = f"{sites} sites of {site_bytes(bits)} bytes by the grids and the stage, got {len(data)} bytes"
        yield Problem(Reason.TOKENS, f"{field} must be {found}")
        return
    most = (codes or 2**bits) - 1
    if sites and most < 2 ** (8 * site_bytes(bits)) - 1:
        largest = int(unpack(data, bits).max())
        if largest > most:
            yield Problem(Reason.TOKENS, f"{field} must lie in 0..{most}, got {largest}")


def _candidate_problems(candidate: trajectory_pb2.Candidate, expected: _Expected) -> Iterator[Problem]:
    yield from _token_problems("tokens", candidate.tokens, expected.sites, expected.bits, expected.codes)
    if len(candidate.log_probs) != expected.sites:
        yield Problem(
            Reason.LOG_PROBS, f"log_probs must be {expected.sites}, one per site, got {len(candidate.log_probs)}"
        )
    if not np.isfinite(np.array(candidate.log_probs, np.float32)).all():
        yield Problem(Reason.LOG_PROBS, "log_probs must be finite")
    if len(candidate.continuations) != expected.continuations:
        yield Problem(
            Reason.CANDIDATES, f"continuations must be {expected.continuations}, got {len(candidate.continuations)}"
        )
    for index, continuation in enumerate(candidate.continuations):
        wanted = expected.images and index == 0
        problems = _continuation_problems(continuation, expected, wanted)
        yield from (problem.within(f"continuations[{index}]") for problem in problems)
        if bool(continuation.appearance) != (expected.appearance and index == 0):
            yield Problem(
                Reason.APPEARANCE,
                f"continuations[{index}].appearance must be there for first continuations of jobs that want it alone",
            )


def _continuation_problems(
    continuation: trajectory_pb2.Continuation, expected: _Expected, wanted: bool
) -> Iterator[Problem]:
    if set(continuation.rewards) != expected.rewards:
        named = f"{sorted(expected.rewards)}, got {sorted(continuation.rewards)}"
        yield Problem(Reason.REWARDS, f"rewards must name {named}")
    if not all(map(math.isfinite, continuation.rewards.values())):
        yield Problem(Reason.REWARDS, "rewards must be finite")
    if not all(map(math.isfinite, continuation.appearance.values())):
        yield Problem(Reason.APPEARANCE, "appearance must be finite")
    yield from _region_problems(continuation.regions, expected.rewards)
    if not wanted and continuation.image:
        yield Problem(Reason.IMAGE, "image must be empty: the job wants those of first continuations or none")
    problem = png_problem(continuation.image, expected.height, expected.width) if wanted else None
    if problem is not None:
        yield Problem(Reason.IMAGE, problem)


def _region_problems(regions: Sequence[trajectory_pb2.LocatedRegion], rewards: Iterable[str]) -> Iterator[Problem]:
    if len(regions) > MAX_REGIONS:
        yield Problem(Reason.REGIONS, f"regions must be at most {MAX_REGIONS}, got {len(regions)}")
    for index, region in enumerate(regions):
        if region.reward not in rewards:
            yield Problem(
                Reason.REGIONS, f"regions[{index}].reward must be a reward of the image, got {region.reward!r}"
            )
        if not 0 <= region.confidence <= 1:
            yield Problem(Reason.REGIONS, f"regions[{index}].confidence must be in 0..1, got {region.confidence}")
        problem = polygon_problem(region.polygon) if region.polygon else None
        if problem is not None:
            yield Problem(Reason.REGIONS, f"regions[{index}].{problem}")
