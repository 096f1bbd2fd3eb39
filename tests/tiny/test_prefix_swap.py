"""One policy's prefix continued by another one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.support.paths import ROOT
from tests.support.trainer_rig import make_model
from varl.policy.base import SamplingParams, cells
from varl.policy.nextflow import load
from varl.policy.nextflow.policy import NextFlowPolicy
from varl.policy.sampling import mix
from varl.tiny.prefix_swap import drawn, main
from varl.trajectories.prompts import PromptSpec

SPLIT = 2
SPECS = [PromptSpec(prompt=f"a sign that says '{word}'", target_words=(word,)) for word in ("CAT", "STAMP")]


@pytest.fixture
def policies(tmp_path: Path) -> tuple[NextFlowPolicy, NextFlowPolicy]:
    make_model(tmp_path)
    base, moved = load(tmp_path), load(tmp_path)
    with torch.no_grad():
        for parameter in moved.module.parameters():
            parameter.add_(0.5 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return base, moved


def whole(policy: NextFlowPolicy) -> torch.Tensor:
    state = policy.prefill_all([spec.prompt for spec in SPECS], guided=False)
    return policy.sample(state, len(policy.grids), [mix(0, 0), mix(0, 1)], SamplingParams())[1].tokens


def test_a_prefix_continued_by_its_own_policy_is_what_the_policy_draws(
    policies: tuple[NextFlowPolicy, NextFlowPolicy],
) -> None:
    for policy in policies:
        assert torch.equal(torch.cat(list(drawn(policy, policy, SPECS, SPLIT))), whole(policy))


def test_each_part_is_drawn_by_its_own_policy(policies: tuple[NextFlowPolicy, NextFlowPolicy]) -> None:
    base, moved = policies
    first = sum(cells(base.grids[:SPLIT]))
    (mixed,) = drawn(moved, base, SPECS, SPLIT)
    assert torch.equal(mixed[:, :first], whole(moved)[:, :first])
    assert not torch.equal(mixed[:, :first], whole(base)[:, :first])
    # What the base adds is what it adds when the same prefix is taught: drawn greedily, the likeliest codes.
    (greedy,) = drawn(moved, base, SPECS, SPLIT, SamplingParams(top_k=1))
    for row, spec in zip(greedy, SPECS, strict=True):
        with torch.no_grad():
            logits = base.distribution(spec.prompt, row[None], SPLIT).logits()
        assert torch.equal(logits.argmax(-1)[0], row[first:])


def test_the_base_exchanged_with_itself_changes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(ROOT / "checkpoints/tiny_signs/policy.safetensors"), "--prompts", "6"]) == 0
    *_, row = capsys.readouterr().out.splitlines()
    accuracy, *changes = row.strip("| ").split(" | ")[1:]
    assert 0 < float(accuracy.partition(" ")[0]) < 1
    assert changes == ["+0.000 ± 0.000"] * 3
