"""Blocks that are computed again on the way back: when they are, and that nothing else changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support.infinity_models import random_policy
from tests.support.trainer_rig import PROMPTS, make_model, make_recipe
from varl.examples.palette import Palette
from varl.policy.base import TrainablePolicy, cells
from varl.policy.nextflow import build_random
from varl.policy.recompute import Recompute, Recomputes
from varl.trainer.recipe.trained import choose_recompute
from varl.trainer.setup import load_policies

POLICIES: dict[str, Callable[[], TrainablePolicy]] = {"nextflow": lambda: build_random(0), "infinity": random_policy}


def passed(policy: TrainablePolicy, recompute: Recompute, long: float = 2**28) -> tuple[int, dict[str, Tensor]]:
    """Bytes that a pass keeps for its way back, and the gradients."""
    module, kept = policy.module, dict[int, int]()
    assert isinstance(module, Recomputes)
    choose_recompute(policy, recompute)
    module.long = long
    module.zero_grad()
    weights = {one.untyped_storage().data_ptr() for one in (*module.parameters(), *module.buffers())}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    tokens = torch.randint(2**4, (3, sum(cells(policy.grids))), generator=torch.Generator().manual_seed(0))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        found = policy.distribution(PROMPTS[0], tokens, 0).log_prob(tokens).sum()
    found.backward()  # type: ignore[no-untyped-call]
    return sum(kept.values()), {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("kind", POLICIES)
def test_a_pass_keeps_less_and_has_the_same_gradients(kind: str) -> None:
    policy = POLICIES[kind]()
    cases: list[tuple[Recompute, float]] = [("never", 0), ("long", 2**28), ("long", 0), ("always", 2**28)]
    (never, plain), *others = (passed(policy, *case) for case in cases)
    short, long, always = (size for size, _ in others)
    assert short == never and long == always < 0.7 * never
    for _, gradients in others:
        assert gradients.keys() == plain.keys()
        assert all(torch.equal(value, plain[name]) for name, value in gradients.items())


def test_a_recipe_says_so_and_a_model_without_a_choice_says_no(tmp_path: Any) -> None:  # noqa: ANN401
    make_model(tmp_path / "model")
    trained, _ = load_policies(make_recipe(tmp_path, "again", optimizer={"recompute": "always"}))
    assert isinstance(trained.module, Recomputes) and trained.module.recompute == "always"
    palette = Palette()  # type: ignore[no-untyped-call]
    choose_recompute(palette, "long")
    with pytest.raises(ValueError, match=r"optimizer\.recompute"):
        choose_recompute(palette, "never")
