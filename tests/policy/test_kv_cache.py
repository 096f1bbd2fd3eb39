"""Which candidates of which prompts go through a model together."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from varl.policy.kv_cache import CACHED, slices

CPU, META = torch.device("cpu"), torch.device("meta")
COUNTS = st.integers(1, 40)


@given(prompts=COUNTS, batch=COUNTS, places=st.integers(1, 2 * CACHED))
def test_every_candidate_is_in_one_slice_in_order_and_a_cpus_caches_hold_it(
    prompts: int, batch: int, places: int
) -> None:
    table, found = torch.arange(prompts * batch).view(prompts, batch), list[int]()
    for one in slices(prompts, batch, places, CPU):
        part = table[one.prompts, one.rows]
        assert part.numel() * places <= CACHED or part.numel() == 1
        found += part.flatten().tolist()
    assert found == list(range(prompts * batch))


@given(prompts=COUNTS, batch=COUNTS)
def test_elsewhere_all_go_together(prompts: int, batch: int) -> None:
    (one,) = slices(prompts, batch, 10**6, META)
    assert torch.zeros(prompts, batch)[one.prompts, one.rows].numel() == prompts * batch


def test_a_slice_picks_its_prompts_lanes_in_every_branch() -> None:
    lanes = ["a", "b", "c", "-a", "-b", "-c"]
    first, last = slices(3, 1, CACHED // 2, CPU)
    assert (first.of(lanes, 3), last.of(lanes, 3)) == (["a", "b", "-a", "-b"], ["c", "-c"])
