"""Muon in float32 against PyTorch's, whose orthogonalisation is in bfloat16."""

import pytest
import torch

from varl.tiny.pretrain.muon import Muon, orthogonalise


@pytest.mark.parametrize("shape", [(24, 8), (8, 24), (16, 16)])
def test_singular_values_move_to_about_one(shape: tuple[int, int]) -> None:
    values = torch.linalg.svdvals(orthogonalise(torch.randn(shape, generator=torch.Generator().manual_seed(0))))
    assert values.min() > 0.5 and values.max() < 1.3


def test_two_steps_are_those_of_pytorch_to_bfloat16() -> None:
    start = torch.randn((24, 8), generator=torch.Generator().manual_seed(0))
    ours, theirs = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    pairs = ((ours, Muon([ours], lr=0.02)), (theirs, torch.optim.Muon([theirs], lr=0.02, weight_decay=0.01)))
    for step in range(2):
        gradient = torch.randn((24, 8), generator=torch.Generator().manual_seed(1 + step))
        for weight, optimizer in pairs:
            weight.grad = gradient.clone()
            optimizer.step()
    moved = (ours - start).norm()
    assert (ours - theirs).norm() < 0.03 * moved


def test_a_matrix_without_a_gradient_stays() -> None:
    weight = torch.nn.Parameter(torch.ones(2, 2))
    Muon([weight], lr=0.1).step()
    assert torch.equal(weight, torch.ones(2, 2))
