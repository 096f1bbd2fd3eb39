"""How the passes of an update are dealt out to ranks, and what ranks tell one another."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.support.ranks_rig import MODELS, groups
from varl.trainer.parallel.launch import LaunchError, this_run
from varl.trainer.parallel.shares import passes_of, turns
from varl.trainer.parallel.wire import pack, pack_groups, pack_measured, unpack, unpack_groups, unpack_measured
from varl.trainer.recipe.config import Recipe
from varl.trainer.step.metrics import Measured


@given(st.lists(st.integers(1, 100), max_size=12), st.integers(1, 5))
def test_every_pass_counts_once_and_all_ranks_make_equally_many(tokens: list[int], ranks: int) -> None:
    rounds = turns(tokens, ranks)
    assert all(len(each) == ranks for each in rounds) and len(rounds) == -(-len(tokens) // ranks)
    counted = [turn.index for each in rounds for turn in each if turn.counts]
    assert sorted(counted) == list(range(len(tokens)))
    idle = [turn for each in rounds for turn in each if not turn.counts]
    assert len(idle) < ranks and all(tokens[turn.index] == min(tokens) for turn in idle)
    lengths = [[tokens[turn.index] for turn in each] for each in rounds]
    assert all(min(one) >= max(other) for one, other in pairwise(lengths))


def test_passes_cover_the_candidates_of_every_group() -> None:
    found = groups(MODELS["nextflow"](), 0)
    passes = passes_of(found, 3)
    assert [(one.group, one.rows.start) for one in passes] == [(0, 0), (0, 3), (1, 0), (2, 0), (3, 0), (3, 3)]
    width = found[0].tokens.shape[1]
    assert [one.tokens for one in passes] == [len(found[0].prompt) + rows * width for rows in (3, 1, 3, 2, 3, 2)]
    assert [one.rows for one in passes_of(found, 0)] == [slice(0, len(group.values)) for group in found]


def test_groups_and_measurements_arrive_as_they_were_sent() -> None:
    for update in range(2):
        sent = groups(MODELS["nextflow"](), update)
        heads, tensors = pack_groups(sent)
        head, received = unpack(pack({"groups": heads}, tensors))
        for one, other in zip(sent, unpack_groups(head["groups"], received), strict=True):
            first, second = vars(replace(one, rewards={})), vars(other)
            assert first.keys() == second.keys()
            for name, value in first.items():
                same = torch.equal(value, second[name]) if isinstance(value, torch.Tensor) else value == second[name]
                assert same, name
    assert unpack_groups(*pack_groups([])) == []
    measured = Measured(*(torch.rand(2, 3) for _ in range(7)))
    (found,) = unpack_measured(pack_measured({5: measured})).items()
    assert found[0] == 5 and all(
        torch.equal(a, b) for a, b in zip(vars(measured).values(), vars(found[1]).values(), strict=True)
    )


def test_settings_that_need_torchrun_are_refused_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    with this_run(Recipe()) as ranks:
        assert ranks is None
    recipe = Recipe.model_validate({"parallel": {"compute_dtype": "bfloat16"}})
    with pytest.raises(LaunchError, match="torchrun"), this_run(recipe):
        pass
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "0")):
        monkeypatch.setenv(name, value)
    one = Recipe.model_validate({"run": {"device": "cuda:0"}})
    with pytest.raises(LaunchError, match=r"run\.device: cuda:0 is one device for all ranks"), this_run(one):
        pass
    monkeypatch.setenv("RANK", "first")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="RANK, WORLD_SIZE, LOCAL_RANK must be numbers"), this_run(Recipe()):
        pass
