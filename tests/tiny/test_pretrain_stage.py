"""A stage of pretraining that was cut off and started again ends with the weights of one that was not."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from varl.policy.nextflow import NextFlowConfig, build
from varl.policy.nextflow.policy import NextFlowPolicy
from varl.tiny.pretrain.stage import Stage
from varl.tiny.pretrain.train_policy import train_policy
from varl.tiny.pretrain.train_tokenizer import train_semantic, train_tokenizer
from varl.tiny.render import Rendered, render_batch


def _never(step: int) -> bool:
    return False


STAGES: dict[str, Callable[[NextFlowPolicy, Stage], None]] = {
    "semantic": lambda policy, stage: train_semantic(policy.tokenizer, policy.config.tokenizer.stride, stage),
    "tokenizer": lambda policy, stage: train_tokenizer(policy.tokenizer, policy.config.tokenizer.stride, stage),
    "policy": lambda policy, stage: train_policy(policy, stage, _never, check_every=9, compiled=False),
}


def _weights_after(name: str, state: Path, breaks_at: int | None = None) -> dict[str, torch.Tensor]:
    """Weights after a stage of three steps; it breaks off at the pictures of step ``breaks_at`` of this start."""
    torch.manual_seed(0)
    policy = build(NextFlowConfig())
    policy.tokenizer.requires_grad_(True)
    drawn = 0

    def draw(count: int, rng: np.random.Generator) -> list[Rendered]:
        nonlocal drawn
        if drawn == breaks_at:
            raise InterruptedError
        drawn += 1
        return render_batch(count, rng)

    STAGES[name](policy, Stage(draw, 3, 2, seed=5, state=state, log=lambda line: None, save_every_s=0.0))
    parts = {"policy": policy.module, "tokenizer": policy.tokenizer}
    return {f"{part}.{key}": value for part, module in parts.items() for key, value in module.state_dict().items()}


@pytest.mark.parametrize("name", STAGES)
def test_it_goes_on_where_it_was(name: str, tmp_path: Path) -> None:
    undisturbed = _weights_after(name, tmp_path / "undisturbed.pt")
    with pytest.raises(InterruptedError):
        _weights_after(name, tmp_path / "cut.pt", breaks_at=2)
    resumed = _weights_after(name, tmp_path / "cut.pt")
    for key, value in undisturbed.items():
        assert torch.equal(value, resumed[key]), key


def test_a_stage_that_is_done_takes_no_step(tmp_path: Path) -> None:
    _weights_after("policy", tmp_path / "done.pt")
    _weights_after("policy", tmp_path / "done.pt", breaks_at=0)
